"""What a conductor is made of: one job through its stages, its lease, and who gets a denoiser."""
