"""All-reduces between several GPUs of this machine (NCCL), or between processes on its CPU (Gloo)."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from servegym.experiments.profiling.operators import Maker
from servegym.experiments.profiling.settings import Timing
from servegym.experiments.profiling.timer import Kernel, Timer


def all_reduce_seconds(device: str, gpus: int, message_bytes: Sequence[int], timing: Timing) -> list[float]:
    """Seconds for each size, bf16, on `gpus` devices of type `device`.

    Each rank measures its own time, and the shortest counts: the others have waited for the last to start.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (gpus, device, message_bytes, timing, folder)
        spawn(_rank, arguments, nprocs=gpus)  # type: ignore[no-untyped-call]
        ranks = [json.loads(_answer(folder, rank).read_text()) for rank in range(gpus)]
    return [min(times) for times in zip(*ranks, strict=True)]


def _rank(
    rank: int, gpus: int, device_type: str, message_bytes: Sequence[int], timing: Timing, folder: str
) -> None:
    device = torch.device("cuda", rank) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device_type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=gpus
    )
    try:
        timer = Timer(device, timing)
        maker = Maker(device, torch.bfloat16, torch.Generator(device).manual_seed(rank))
        seconds = [timer.seconds(_kernel(maker, size)) for size in message_bytes]
    finally:
        distributed.destroy_process_group()
    _answer(folder, rank).write_text(json.dumps(seconds))


def _kernel(maker: Maker, message_bytes: int) -> Kernel:
    return Kernel(lambda: (maker.normal(max(1, message_bytes // 2)),), distributed.all_reduce)


def _answer(folder: str, rank: int) -> Path:
    return Path(folder) / f"{rank}.json"
