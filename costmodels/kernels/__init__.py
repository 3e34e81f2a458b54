"""Timings of GPU kernels: one schema, and readers of the formats in which others publish theirs."""
