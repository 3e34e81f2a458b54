"""Routers of real serving systems as processes in front of given workers: what learned ones compete with."""
