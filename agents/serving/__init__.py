"""Policies outside the gym: the exported one as files, who computes it, routers, engines, plugins."""
