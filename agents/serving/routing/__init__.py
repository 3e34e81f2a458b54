"""Routers at work: what is known of requests and replicas, and the policies that choose."""
