"""The recipe of the shipped demo models: a synthetic world, a detector that judges it, and the training runs."""
