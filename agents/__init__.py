"""Policies: heuristics, networks, learners, and the artifact that carries them away."""
