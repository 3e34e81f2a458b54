"""The simulator of LLM serving specified in docs/simulator.md."""
