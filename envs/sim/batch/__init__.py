"""The batch-serving simulator: models with deadlines share GPUs. Specification: docs/batch_serving.md."""
