"""What a request takes at least, had it the whole fleet for itself."""

from typing import NamedTuple

import numpy as np

from servegym.agents.bounds.batch_times import LeastTimes, attention_seconds
from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.native.jit import jit
from servegym.envs.workloads import Workload


class LeastAlone(NamedTuple):
    """Of N requests, seconds: `first_token_s` from arrival to first token, `decode_s` from there on."""

    first_token_s: Floats
    decode_s: Floats

    @property
    def latency_s(self) -> Floats:
        """From arrival to last token."""
        return self.first_token_s + self.decode_s


def least_alone(workload: Workload, times: LeastTimes) -> LeastAlone:
    """Lower bounds for each request under any policy, whoever shares its batches.

    Proof. A request is in one batch at a time, so its iterations follow each other, and each lasts at least
    the floor of its own step. Its prompt of p tokens is computed in chunks; over all ways of cutting it the
    sum of the floors is smallest at the recursion's optimum (pairs of tokens are p (p + 1) / 2 however it is
    cut). Its other tokens are sampled one an iteration: by a decode with v tokens computed before, or, after
    a preemption by recompute, at the end of a prefill of v + 1 tokens; the smaller of the two counts.
    """
    prompt = workload.prompt_tokens.astype(np.int64)
    last = prompt + workload.output_tokens - 1  # KV tokens after the last step
    if len(last) == 0:
        return LeastAlone(np.empty(0), np.empty(0))
    prefill_s = _prefill(times, int(last.max()))
    decodes_s = np.concatenate([[0.0], np.cumsum(_decode(times, prefill_s))])  # [v]: with fewer than v tokens
    return LeastAlone(prefill_s[prompt], decodes_s[last] - decodes_s[prompt])


@jit
def _prefill(times: LeastTimes, longest: int) -> Floats:
    """(longest + 1,): from nothing computed to the token sampled after so many."""
    budget = times.step_s.size - 1
    chunk_s = times.step_s + times.sampled_s[0]
    least_s = np.zeros(longest + 1)
    for tokens in range(1, longest + 1):
        best = np.inf
        for chunk in range(1, min(tokens, budget) + 1):
            best = min(best, least_s[tokens - chunk] + chunk_s[chunk])
        least_s[tokens] = best
    for tokens in range(1, longest + 1):
        pairs = 0.5 * tokens * (tokens + 1.0)
        least_s[tokens] += times.s_per_pair * pairs + times.sampled_s[1] - times.sampled_s[0]
    return least_s


@jit
def _decode(times: LeastTimes, prefill_s: Floats) -> Floats:
    """(V,): one more token with v tokens computed, by a decode or by computing v + 1 anew."""
    step_s = times.step_s[1] + times.sampled_s[1]
    least_s = np.empty(prefill_s.size - 1)
    for v in range(least_s.size):
        decode_s = step_s + attention_seconds(times.decode_s, times.kv_knots, 1, v)
        least_s[v] = min(decode_s, prefill_s[v + 1])
    return least_s
