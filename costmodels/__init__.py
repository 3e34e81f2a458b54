"""How long a GPU takes: specifications, the roofline, and the time of one engine iteration.

Import from the modules; nothing is imported here, so that code which needs no compiler does not load one.
"""
