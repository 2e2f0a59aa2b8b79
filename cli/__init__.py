"""The `kinoray` command: an HTTP client of the service, which also starts it on this machine and prefetches weights."""
