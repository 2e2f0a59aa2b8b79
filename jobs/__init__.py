"""The durable record of every job: its states, its store, its leases. No Ray, no torch, no HTTP."""
