"""Plugins: what each real serving system loads to be scheduled by an exported policy."""
