"""What an operator decides: settings, Serve config files, API keys and the names of deployments."""
