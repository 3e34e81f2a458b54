"""Load for OpenAI endpoints: a workload replayed on the wall clock, every answer checked."""
