"""How long a call takes on a device: the median of many runs, with the inputs outside the caches.

On a CUDA device several calls are captured in one graph, which is replayed between two events: launches by
the CPU do not count, gaps between kernels on the device do. On a CPU the same calls run between two readings
of the clock. Before each run a buffer of twice the size of L2 is written, and each call of a run has inputs
of its own: no call finds them in a cache. (NVIDIA/nvbench and Triton's do_bench flush in the same way.)
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from servegym.experiments.profiling.settings import Timing

Inputs = tuple[torch.Tensor, ...]

CPU_FLUSH_BYTES = 32 * 2**20
CPU_INPUT_BYTES = 2**30
"""What the inputs of the calls of one run may take of a CPU's memory together."""


@dataclass(frozen=True)
class Kernel:
    """Something to measure: `call(*inputs())`. Every call of `inputs` gives fresh random tensors."""

    inputs: Callable[[], Inputs]
    call: Callable[..., Any]


class Timer:
    """Measures kernels on one device."""

    def __init__(self, device: torch.device, timing: Timing) -> None:
        self.device, self.timing = device, timing
        flush_bytes = CPU_FLUSH_BYTES
        if device.type == "cuda":
            flush_bytes = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(flush_bytes, dtype=torch.int8, device=device)

    def seconds(self, kernel: Kernel) -> float:
        """Median seconds of one call. Raises torch.OutOfMemoryError where the inputs do not fit."""
        first = kernel.inputs()
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in first)
        copies = max(1, min(self.timing.calls, self._input_bytes() // num_bytes + 1))
        inputs = [first, *(kernel.inputs() for _ in range(copies - 1))]
        # Where memory allows fewer copies than calls, each copy alone is larger than the caches.
        calls = [(kernel.call, inputs[i % copies]) for i in range(self.timing.calls)]
        run = self._cuda_run(calls) if self.device.type == "cuda" else self._cpu_run(calls)
        times = [run() for _ in range(self.timing.warmups + self.timing.repeats)]
        return statistics.median(times[self.timing.warmups :]) / len(calls)

    def _input_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] // 2
        return CPU_INPUT_BYTES

    def _cpu_run(self, calls: Sequence[tuple[Callable[..., Any], Inputs]]) -> Callable[[], float]:
        def run() -> float:
            self._flush.zero_()
            start = time.perf_counter()
            for call, inputs in calls:
                call(*inputs)
            return time.perf_counter() - start

        return run

    def _cuda_run(self, calls: Sequence[tuple[Callable[..., Any], Inputs]]) -> Callable[[], float]:
        # Once outside of the graph, on another stream: libraries set themselves up at their first call.
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for call, inputs in calls:
                call(*inputs)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call, inputs in calls:
                call(*inputs)
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

        def run() -> float:
            self._flush.zero_()  # takes longer than the launches that follow, so the device never waits
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3

        return run
