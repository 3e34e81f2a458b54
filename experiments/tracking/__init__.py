"""Experiment trackers that a training run can be followed in: `servegym train tracking=NAME`."""
