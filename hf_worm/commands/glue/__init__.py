"""`hf-worm glue`: tasks, data and model."""
