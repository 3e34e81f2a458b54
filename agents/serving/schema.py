"""What an exported router policy is made of: the schema of `policy.json`, version 2.

The numbers a policy reads are written out here and not taken from the simulator, so that a serving system
loads a policy without it, and so that a change of the simulator's view is a new schema version
(a test holds the two equal).
"""

SCHEMA_VERSION = 2
"""Raised whenever a file of an older version could be misread."""

LEVEL = "router"
"""The decision the policy takes: which replica gets a request."""

REQUEST_FEATURES = ("prompt_tokens", "predicted_output_tokens", "gap_s", "priority")
"""The columns of the input `request` (batch, 4), float32, raw units; a unit ends the name."""

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
)
"""The columns of the input `replicas` (batch, replicas, 13), float32, raw units."""

GRAPH_FILE, DESCRIPTION_FILE, GOLDEN_FILE = "policy.onnx", "policy.json", "golden.npz"
FILES = (GRAPH_FILE, DESCRIPTION_FILE, GOLDEN_FILE)
"""The three files of an artifact: the ONNX graph, its description, inputs with the scores due."""
