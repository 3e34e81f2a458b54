"""Measures operators and whole decoder layers with torch: the timings that cost models are made of."""
