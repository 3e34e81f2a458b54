"""Bounds that no policy beats, from the workload, the engine and the iteration cost alone."""

from servegym.agents.bounds.clairvoyant import ClairvoyantBounds, MeanBound, clairvoyant_bounds

__all__ = ["ClairvoyantBounds", "MeanBound", "clairvoyant_bounds"]
