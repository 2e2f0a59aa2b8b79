"""The job_run: Ray Serve classes, one per stage, the HTTP API and the conductor. No tensor mathematics."""
