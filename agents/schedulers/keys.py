"""Keys that put one class of requests before all others."""

FIRST = -float("inf")
"""Before everyone; those who have it go by arrival."""

AHEAD = 2.0**40
"""Taken off the key of a request that goes before the rest, but behind `FIRST`.

More than any key in tokens or seconds; differences of 2^-12 of these still count, whole tokens exactly.
"""
