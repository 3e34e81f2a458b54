"""The exported policy as files: what they say, reading them without trust, and making them."""
