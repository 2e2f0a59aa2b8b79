"""How the service scales, on GPUs that exist in name only and models that only take their time: `make bench-scale`."""
