"""The operator's configuration: settings, Serve config files, API keys and the names of deployments."""
