"""The exported policy: how it is written, and the runtime that loads it."""
