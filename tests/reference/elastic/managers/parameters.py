"""What LoongServe's manager is set to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """Of the artifact on eight GPUs, for ShareGPT."""

    max_requests: int = 1024
    max_tokens: int = 500_000
    max_wait: int = 10
    max_prefill_s: float = 5.0
    decoding_s: float = 0.022
    master_batch: int = 128
    out_of_order: int = 1
    scale_up: bool = True
    one_batch: bool = False
    pruned: bool = True  # only says how fast batches are found: here all are tried
