"""The simulator of elastic sequence parallelism (docs/elastic_sequence_parallelism.md)."""
