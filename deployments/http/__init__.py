"""The parts of the API: they identify callers, read and refuse requests, and follow jobs."""
