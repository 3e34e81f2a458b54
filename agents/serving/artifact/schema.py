"""What an exported policy is made of: the schema of `policy.json`, version 4.

The numbers a policy reads are written out here and not taken from the simulator, so that a serving system
loads a policy without it, and so that a change of what is observed is a new schema version
(a test holds the two equal).
"""

from typing import NamedTuple

SCHEMA_VERSION = 4
"""Raised whenever a file of an older version could be misread."""

REPLICAS = "replicas"
"""In place of a number of rows: one for each replica of the fleet."""


class Input(NamedTuple):
    """An array that a policy reads, float32 in raw units: after the axis of the batch (rows, features).

    rows: None for an array without that axis. features: none for one number.
    """

    rows: int | str | None
    features: tuple[str, ...]

    def shape(self, count: int, num_replicas: int) -> tuple[int, ...]:
        """For a number of decisions in a fleet of a size."""
        rows = [] if self.rows is None else [num_replicas if isinstance(self.rows, str) else self.rows]
        return (count, *rows, *([len(self.features)] if self.features else []))


class Level(NamedTuple):
    """A kind of decision: what is decided, what is read (which actions are legal follows), the actions.

    actions: how many of each kind, in order; REPLICAS: one for each replica.
    """

    decision: str
    inputs: dict[str, Input]
    actions: tuple[int | str, ...]

    def num_actions(self, num_replicas: int) -> int:
        """All of them, in a fleet of a size."""
        return sum(num_replicas if isinstance(each, str) else each for each in self.actions)


REQUEST_FEATURES = ("prompt_tokens", "predicted_output_tokens", "gap_s", "priority")
"""Of the request to be routed; a unit ends the name."""

REPLICA_FEATURES = (
    "available",
    "running",
    "waiting",
    "queued_prefill_tokens",
    "outstanding_tokens",
    "decode_context_tokens",
    "kv_used_blocks",
    "kv_total_blocks",
    "iteration_left_s",
    "predicted_remaining_tokens",
    "kv_released_per_iteration",
    "prefix_hit_tokens",
    "speed",
    "unseen_requests",
    "unseen_prefill_tokens",
)
"""Of a replica that it may go to."""

SETTING_FEATURES = (
    "overhead_s",
    "s_per_prefill_token",
    "s_per_decode",
    "s_per_context_token",
    "token_budget",
    "block_size",
    "mean_output_tokens",
    "ttft_weight",
    "latency_weight",
)
"""Of the fleet, its traffic and its objective: what an operator sets once."""

ENGINE_FEATURES = (
    "running",
    "waiting",
    "decoding",
    "admitted",
    "queued_prefill_tokens",
    "outstanding_tokens",
    "decode_context_tokens",
    "kv_used_blocks",
    "kv_total_blocks",
    "unclaimed_tokens",
    "unclaimed_blocks",
    "seats_left",
    "predicted_remaining_tokens",
)
"""Of the engine whose next batch is put together."""

ROW_FEATURES = (
    "is_waiting",
    "is_prefilling",
    "is_decoding",
    "prompt_tokens",
    "known_tokens",
    "computed_tokens",
    "predicted_output_tokens",
    "generated_tokens",
    "since_arrival_s",
    "priority",
    "blocks",
    "legal",
)
"""Of a request of that engine: 32 that wait, then 32 that run."""

ROUTER_INPUTS = {
    "request": Input(None, REQUEST_FEATURES),
    "replicas": Input(REPLICAS, REPLICA_FEATURES),
    "setting": Input(None, SETTING_FEATURES),
}

SCHEDULER_INPUTS = {"engine": Input(None, ENGINE_FEATURES), "requests": Input(64, ROW_FEATURES)}

LEVELS = {
    "router": Level("which replica gets a request", ROUTER_INPUTS, (REPLICAS,)),
    "scheduler": Level(
        "whom an engine admits or preempts, or that its next iteration starts", SCHEDULER_INPUTS, (68,)
    ),
    "two_level": Level(
        "where level is 0 which replica gets a request, where it is 1 what a scheduler of an engine decides",
        {"level": Input(None, ()), **ROUTER_INPUTS, **SCHEDULER_INPUTS},
        (REPLICAS, 68),
    ),
}
"""By name; the actions are those of Routing-v0, Batching-v0 and TwoLevel-v0."""

GRAPH_FILE, WEIGHTS_FILE, DESCRIPTION_FILE = "policy.onnx", "policy.npz", "policy.json"
GOLDEN_FILE, CARD_FILE, SIGNATURE_FILE = "golden.npz", "card.md", "policy.sig"
FILES = (GRAPH_FILE, WEIGHTS_FILE, DESCRIPTION_FILE, GOLDEN_FILE, CARD_FILE)
"""The files of an artifact: the ONNX graph, the same network's arrays, its description, inputs with the
scores due, a page to read. A signature may stand beside them."""

MOST_BYTES = {
    GRAPH_FILE: 64 << 20,
    WEIGHTS_FILE: 64 << 20,
    DESCRIPTION_FILE: 1 << 20,
    GOLDEN_FILE: 64 << 20,
    CARD_FILE: 1 << 20,
    SIGNATURE_FILE: 1 << 10,
}
"""A larger file is not read."""

MOST_HIDDEN, MOST_LAYERS, MOST_REPLICAS = 1024, 16, 4096
"""Bounds on a network: its width, its depth, and the fleet of one that takes a single size."""

MOST_GOLDEN, MOST_GOLDEN_FLEETS = 256, 16
"""Bounds on golden observations: for each fleet size, and how many sizes."""
