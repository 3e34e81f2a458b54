"""Two levels: the agent is the router of a fleet and the scheduler of each of its engines."""
