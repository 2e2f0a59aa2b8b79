"""Real parts that tests and benchmarks start: servers, networks that fail, commands, whole services."""
