"""How long an engine iteration takes: `IterationCost`, and what fills its tables."""
