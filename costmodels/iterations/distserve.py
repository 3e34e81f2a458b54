"""DistServe's clock: iteration times of OPT on A100s, of its engine and of vLLM, as its simulator has them.

Zhong et al., "DistServe" (OSDI 2024, arXiv 2401.09670); the numbers are in its repository
(github.com/LLMServe/DistServe, simdistserve, profile data of the estimators). A batch of prompts of l_1, l_2,
... tokens takes `a + b sum(l) + c sum(l^2)`, a batch of decodes with S tokens of context `a + b S + c batch`,
with other constants from 95 decodes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import Floats, IterationCost, validate_iteration_cost
from servegym.costmodels.iterations.knots import geometric_knots

LARGE_BATCH = 95
"""The decodes from which on the second constants hold."""

_MS = 1e-3


@dataclass(frozen=True)
class DistServeClock:
    """Constants in milliseconds: of prefills (a, b, c), and of decodes below and from LARGE_BATCH on."""

    prefill: tuple[float, float, float]
    few_decodes: tuple[float, float, float]
    many_decodes: tuple[float, float, float]

    def prefill_s(self, prompts: Floats) -> float:
        """Seconds of a batch of prompts (P,), tokens."""
        a, b, c = self.prefill
        return float(_MS * (a + b * prompts.sum() + c * (prompts**2).sum()))

    def decode_s(self, decodes: Floats, kv_tokens: Floats) -> Floats:
        """Seconds of batches of so many decodes with so many tokens of context together, broadcast."""
        few, many = (
            _MS * (a + b * kv_tokens + c * decodes) for a, b, c in (self.few_decodes, self.many_decodes)
        )
        return np.where(decodes < LARGE_BATCH, few, many)


CLOCKS: Mapping[tuple[str, str, int], DistServeClock] = MappingProxyType(
    {
        ("distserve", "opt_13b", 1): DistServeClock(
            (18.10, 0.10191, 7.122e-6), (19.93, 6.269e-4, 0.03851), (7.166, 5.798e-4, 0.15831)
        ),
        ("distserve", "opt_13b", 2): DistServeClock(
            (14.74, 0.06858, 2.450e-6), (13.29, 3.411e-4, 0.06296), (10.64, 3.118e-4, 0.08563)
        ),
        ("distserve", "opt_13b", 4): DistServeClock(
            (12.06, 0.03808, 5.226e-7), (10.26, 1.879e-4, 0.03269), (10.48, 1.712e-4, 0.04567)
        ),
        ("distserve", "opt_66b", 4): DistServeClock(
            (29.44, 0.15135, 8.317e-6), (30.76, 4.519e-4, 0.06328), (27.47, 4.047e-4, 0.12481)
        ),
        ("distserve", "opt_66b", 8): DistServeClock(
            (25.49, 0.10659, 3.391e-6), (23.16, 2.269e-4, 0.04801), (21.72, 3.758e-4, 0.08979)
        ),
        ("vllm", "opt_13b", 1): DistServeClock(
            (22.05, 0.14051, 8.077e-6), (23.48, 5.929e-4, 0.06073), (20.21, 4.908e-4, 0.12000)
        ),
        ("vllm", "opt_66b", 4): DistServeClock(
            (42.97, 0.21287, 4.601e-5), (39.58, 6.946e-4, 0.13581), (40.86, 4.265e-4, 0.19508)
        ),
    }
)
"""By engine, model and tensor-parallel degree; `vllm` is vLLM of 2023 on the same GPUs."""


def distserve_iteration_cost(
    engine: str, model: str, tensor_parallel: int, *, max_num_batched_tokens: int, max_num_seqs: int
) -> IterationCost:
    """Tables that give these times, for engines whose iterations prefill or decode but do not mix them.

    `a` of a prefill is counted for the iteration up to what the shortest decode takes, and the rest, at most
    3.3 ms, with every prompt in it; with decodes beside prompts both count. A prompt cut into chunks takes
    `b` and `c` as a whole one does. InputError for what was not measured.
    """
    if (engine, model, tensor_parallel) not in CLOCKS:
        known = ", ".join(f"{engine} {model} TP{degree}" for engine, model, degree in CLOCKS)
        raise InputError(
            f"DistServe's clock: {engine} {model} TP{tensor_parallel} was not measured, there are {known}"
        )
    clock = CLOCKS[engine, model, tensor_parallel]
    a, b, c = (_MS * value for value in clock.prefill)
    decodes = np.arange(max_num_seqs + 1.0)[:, None]
    kv_knots = np.array([0.0, 1.0])
    decode_s = clock.decode_s(decodes, kv_knots)
    overhead_s = min(a, float(decode_s[1:, 0].min()))
    decode_s -= overhead_s
    decode_s[0] = 0.0
    chunks = np.arange(1.0, max_num_batched_tokens + 1)
    histories = np.concatenate([[0.0], geometric_knots(max_num_batched_tokens, ratio=1.1)])
    chunk, history = np.meshgrid(chunks, histories, indexing="ij")
    prompt_s = np.where(history == 0, a - overhead_s, 0.0) + b * chunk + c * chunk * (chunk + 2 * history)
    cost = IterationCost(
        overhead_s=overhead_s,
        linear_s=np.zeros(max_num_batched_tokens + 1),
        communication_s=np.zeros(max_num_batched_tokens + 1),
        lm_head_s=np.zeros(max_num_seqs + 1),
        sampler_s=np.zeros(max_num_seqs + 1),
        prefill_chunk_knots=chunks,
        prefill_history_knots=histories,
        prefill_s_per_pair=prompt_s / (chunk * history + chunk * (chunk + 1) / 2),
        decode_kv_knots=kv_knots,
        decode_attention_s=decode_s,
        mixed_decode_attention_s=decode_s,
        mixed_s_per_pair=0.0,
    )
    validate_iteration_cost(cost)
    return cost
