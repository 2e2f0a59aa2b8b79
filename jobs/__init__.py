"""The durable record of every job: its life, its store, its leases. No Ray, no torch, no HTTP."""
