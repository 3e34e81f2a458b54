"""Hydra configuration: YAML only, one group per concept, one file per choice."""
