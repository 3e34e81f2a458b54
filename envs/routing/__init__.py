"""The routing environment: the agent is the load balancer."""
