"""Engines at work: what runs in the next batch of one replica."""
