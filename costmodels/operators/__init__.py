"""How long one operator takes on a GPU: what it does, and three models of it."""
