"""`hf-worm show`: what runs have left, as text and as figures."""
