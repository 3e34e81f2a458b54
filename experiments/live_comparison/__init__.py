"""Routers as they run in front of emulated workers, on one trace, beside what the simulator foretells."""
