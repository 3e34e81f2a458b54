"""The device that is measured: which, under what driver, clocks and libraries."""

import subprocess
from typing import Any

import torch

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.devices import device_name
from servegym.experiments.provenance import provenance

QUERY = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
"""What nvidia-smi is asked for."""


def open_device(name: str) -> torch.device:
    """The device cuda or cpu. InputError for another name, or cuda without a GPU."""
    if name not in ("cuda", "cpu"):
        raise InputError(f"device = {name}: must be cuda or cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device = cuda: torch sees no CUDA device; device=cpu measures this machine's CPU")
    return torch.device(name)


def timings_device(device: torch.device) -> str:
    """The name that timings of this device carry: a preset where there is one, else torch's, or cpu."""
    return "cpu" if device.type == "cpu" else device_name(torch.cuda.get_device_name(device))


def describe(device: torch.device) -> dict[str, Any]:
    """What there is to know about the device and its software now (JSON values)."""
    facts: dict[str, Any] = provenance()
    if device.type == "cpu":
        return {**facts, "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "hbm_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "nvidia_smi": _nvidia_smi(),
    }


def _nvidia_smi() -> dict[str, str] | None:
    """Driver and clocks of the first GPU as they are now; None where nvidia-smi does not answer."""
    words = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in done.stdout.split(",")]
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else None
