"""`hf-worm glue`: its tasks, data and model."""
