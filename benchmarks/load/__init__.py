"""How many requests the API takes, and what it does with more: `make bench-load`."""
