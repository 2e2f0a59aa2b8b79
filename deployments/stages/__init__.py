"""What every replica that computes shares: its worker thread, its messages and its checkpoints."""
