"""The batch-serving simulator: models with deadlines share GPUs that run one batch at a time. docs/batch_serving.md."""
