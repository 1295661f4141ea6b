"""Figures of one run, or of several in one: the only modules that need matplotlib."""
