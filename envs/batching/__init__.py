"""Batching: the agent is the scheduler of one replica's engine."""
