"""`hf-worm glue`: its tasks, its data and its model; what it shares with other commands is in `hf_worm.job`."""
