"""Code that all computing replicas share: the worker thread, the messages and the checkpoints."""
