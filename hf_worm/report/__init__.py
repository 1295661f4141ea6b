"""A run's record, and its one form of words and numbers for terminal, card, JSON and figures."""
