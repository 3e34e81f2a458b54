"""Torch modules that score replicas, and the policies made of them."""
