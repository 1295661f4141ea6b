"""Masks, distances and truncation on tensors and numbers: no model, no configuration, no Trainer."""
