"""The papers whose claims are measured."""

from servegym.experiments.claims.claim import Paper

PAPERS: dict[str, Paper] = {}
"""Every paper by the name it is chosen by, which is the name of its file."""
