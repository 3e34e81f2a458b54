"""The energy of a run, from docs/simulator.md, "Energy", and the log of iterations."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.log import Iteration


@dataclass(frozen=True)
class Power:
    """The GPUs of a replica and the model they serve, in the words of the page; shares of TDP."""

    gpus: int
    tdp_w: float
    hbm_bytes_per_s: float
    peak_flops: float
    weight_bytes: float
    kv_bytes_per_token: float
    parameters: float
    idle: float
    memory: float
    compute: float

    def share(self, iteration: Iteration) -> float:
        """Of `gpus * tdp_w` while the iteration is in flight."""
        seconds = iteration.end_s - iteration.start_s
        kv_tokens = sum(entry.computed + entry.tokens for entry in iteration.entries)
        moved = self.weight_bytes + self.kv_bytes_per_token * kv_tokens
        u_m = min(1.0, moved / (self.gpus * self.hbm_bytes_per_s * seconds))
        u_c = min(1.0, 2 * self.parameters * iteration.tokens / (self.gpus * self.peak_flops * seconds))
        return min(1.0, self.idle + self.memory * u_m + self.compute * u_c)


def energy_j(power: Power, iterations: Sequence[Iteration], start_s: float, end_s: float) -> float:
    """Joules of one replica from `start_s` to `end_s`, with all of its iterations in between."""
    joules, free_since = 0.0, start_s
    for iteration in iterations:
        joules += (iteration.start_s - free_since) * power.idle
        joules += (iteration.end_s - iteration.start_s) * power.share(iteration)
        free_since = iteration.end_s
    joules += (end_s - free_since) * power.idle
    return joules * power.gpus * power.tdp_w
