"""Image classification: data in memory, the models of the paper, and the command."""
