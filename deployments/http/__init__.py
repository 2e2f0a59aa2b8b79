"""What the API is made of: reading and refusing requests, following jobs, telling callers apart."""
