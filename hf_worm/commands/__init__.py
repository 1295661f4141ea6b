"""The `hf-worm` command: programs over the library."""
