"""Dynamic batching: the agent says when one server starts a batch, and how large it is."""
