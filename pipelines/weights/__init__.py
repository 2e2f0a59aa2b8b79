"""Checkpoints: where their files are, what they hold, and how a network is made of them, whole or not at all."""
