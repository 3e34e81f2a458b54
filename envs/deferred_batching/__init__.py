"""`servegym/DeferredBatching-v0`: when and where which batch runs, of many models on shared GPUs."""
