"""Schedulers of batch serving."""
