"""Any fleet behind one router: docs/simulator.md, "The fleet"."""
