"""A policy inside Envoy: a dynamic module that chooses hosts by compiled C."""
