"""Emulated GPU workers, which answer as vLLM does on the simulator's clock."""
