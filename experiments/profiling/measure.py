"""Runs through jobs of shapes on one device and gives the kernel timings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from servegym.costmodels.kernels.schema import OPERATORS, KernelTimings
from servegym.costmodels.progress import Advance, progress
from servegym.experiments.profiling.all_reduce import all_reduce_seconds
from servegym.experiments.profiling.decoder_layer import layer_kernel
from servegym.experiments.profiling.device import timings_device
from servegym.experiments.profiling.operators import INCLUDES, Maker, operator_kernel
from servegym.experiments.profiling.settings import Timing
from servegym.experiments.profiling.shapes import Job, Shape
from servegym.experiments.profiling.timer import Kernel, Timer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Measurement:
    """Measures jobs one after the other, with a bar that counts shapes.

    `timings` are those taken so far; `skipped` says in words which shapes did not fit into memory.
    """

    def __init__(self, device: torch.device, dtype: str, timing: Timing) -> None:
        self.device, self.dtype, self.timing = device, dtype, timing
        self.timings: list[KernelTimings] = []
        self.skipped: list[str] = []
        self._maker = Maker(device, DTYPES[dtype], torch.Generator(device).manual_seed(0))

    def run(self, jobs: Sequence[Job], message_bytes: Sequence[int], gpus: Sequence[int]) -> None:
        """Measures all jobs, and all-reduces of these sizes on these numbers of GPUs."""
        total = sum(len(job.shapes) for job in jobs) + len(gpus) * len(message_bytes)
        with progress("", total, "shapes") as advance:
            for job in jobs:
                advance.doing(job.operator)
                self._run_job(job, advance)
            advance.doing("all_reduce")
            shapes: list[Shape] = []
            seconds: list[float] = []
            for count in gpus:
                seconds += all_reduce_seconds(self.device.type, count, message_bytes, self.timing)
                shapes += [{"bytes": size, "gpus": count} for size in message_bytes]
                advance(len(message_bytes))
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            self._keep("all_reduce", shapes, seconds, backend, "bf16")

    def _run_job(self, job: Job, advance: Advance) -> None:
        shapes, seconds = [], []
        with _timer(self.device, self.timing) as timer:
            for shape in job.shapes:
                try:
                    seconds.append(timer.seconds(self._kernel(job, shape)))
                    shapes.append(shape)
                except torch.OutOfMemoryError:
                    self.skipped.append(f"{job.operator} {dict(shape)}")
                advance()
        self._keep(job.operator, shapes, seconds, job.model.name if job.model else "", self.dtype)

    def _kernel(self, job: Job, shape: Shape) -> Kernel:
        if job.model is None:
            return operator_kernel(job.operator, shape, self._maker)
        return layer_kernel(job.model, shape, self._maker)

    def _keep(
        self, operator: str, shapes: Sequence[Shape], seconds: Sequence[float], variant: str, dtype: str
    ) -> None:
        if not shapes:
            return
        columns = {
            name: np.array([shape[name] for shape in shapes], np.int64) for name in OPERATORS[operator]
        }
        self.timings.append(
            KernelTimings(
                operator,
                columns,
                np.array(seconds),
                timings_device(self.device),
                f"torch {torch.__version__}",
                dtype,
                dtype,
                variant,
                INCLUDES[operator],
            )
        )


@contextmanager
def _timer(device: torch.device, timing: Timing) -> Iterator[Timer]:
    """Nothing is differentiated; what one job has cached on the device is given back before the next."""
    with torch.inference_mode():
        yield Timer(device, timing)
    if device.type == "cuda":
        torch.cuda.empty_cache()
