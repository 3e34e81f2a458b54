"""What the plugin needs of vLLM, whose scheduler interface is not public; versions it was tested with."""

import importlib
import inspect
import os
from typing import Any

from servegym.costmodels.errors import InputError

TESTED = ("0.32", "0.33")
"""Versions of vLLM that tests/serving steps through random plans."""

OVERRIDE = "SERVEGYM_ANY_VLLM"
"""Environment variable that lets the plugin run with any other version which has what it needs."""

SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"
QUEUES = "vllm.v1.core.sched.request_queue"

SIGNATURES = {
    f"{SCHEDULER}.schedule": ("self", "throttle_prefills"),
    f"{SCHEDULER}.update_from_output": ("self", "scheduler_output", "model_runner_output"),
    f"{SCHEDULER}._preempt_request": ("self", "request", "timestamp", "drop_stale_output"),
    f"{SCHEDULER}._request_blocks_can_be_freed": ("self", "request"),
    f"{QUEUES}:FCFSRequestQueue.prepend_requests": ("self", "requests"),
    f"{QUEUES}:PriorityRequestQueue.add_request": ("self", "request"),
}
"""Parameters of what is called or extended."""

SCHEDULER_FIELDS = (
    "waiting",
    "kv_holding_waiting",
    "running",
    "policy",
    "pause_state",
    "requests",
    "max_num_scheduled_tokens",
    "max_num_active_reqs",
    "scheduler_config.long_prefill_token_threshold",
    "scheduler_reserve_full_isl",
    "num_spec_tokens",
    "requires_kv_delivery",
    "num_waiting_for_streaming_input",
    "finished_recving_kv_req_ids",
    "kv_cache_manager.block_pool.num_gpu_blocks",
    "kv_cache_manager.block_pool.get_num_free_blocks",
    "kv_cache_manager.coordinator.single_type_managers",
)
"""Read, or set for the time of an iteration."""

REQUEST_FIELDS = (
    "request_id",
    "status",
    "arrival_time",
    "priority",
    "sampling_params",
    "structured_output_request",
    "max_tokens",
    "num_tokens",
    "num_prompt_tokens",
    "num_output_tokens",
    "num_computed_tokens",
    "num_in_flight_tokens",
    "num_output_placeholders",
    "num_stale_output_tokens",
    "drop_stale_output",
    "spec_token_ids",
    "is_prefill_chunk",
)
"""Read."""


def check_version(version: str) -> None:
    """InputError for a version of vLLM without tests (OVERRIDE lets it pass) or with other signatures."""
    if ".".join(version.split(".")[:2]) not in TESTED and not os.environ.get(OVERRIDE):
        raise InputError(
            f"vllm = {version}: must be {' or '.join(TESTED)}, which were tested; {OVERRIDE}=1 allows any"
        )
    for name, parameters in SIGNATURES.items():
        found = parameters_of(name)
        if found != parameters:
            has = "is missing" if found is None else f"takes ({', '.join(found)})"
            raise InputError(f"vllm {version}: {name} {has}; must take ({', '.join(parameters)})")


def check_fields(scheduler: Any) -> None:
    """InputError for a scheduler that lacks one of SCHEDULER_FIELDS."""
    for path in SCHEDULER_FIELDS:
        value = scheduler
        for name in path.split("."):
            if not hasattr(value, name):
                raise InputError(f"vLLM's scheduler has no {path}, which the plugin needs")
            value = getattr(value, name)


def parameters_of(name: str) -> tuple[str, ...] | None:
    """Names of the parameters of `module:function` or `module:Class.method`; None where there is none."""
    module, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return tuple(inspect.signature(value).parameters)
