"""The GLUE job: data, metrics and the command that prunes a model while it is fine-tuned on a task."""
