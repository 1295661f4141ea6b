"""A run in a checkpoint: its state, whether all of it is there, and weights under older names."""
