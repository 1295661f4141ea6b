"""`hf-worm show`: the results of runs as text and as figures."""
