"""Simulators. Nothing here knows Gymnasium."""
