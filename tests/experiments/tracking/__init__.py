"""Experiment trackers: what they know of a run, read back with their own tools."""
