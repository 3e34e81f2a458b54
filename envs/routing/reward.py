"""The reward of routing: minus the increase of what the objective adds up.

With weights `ttft_weight` and `latency_weight`, an episode's cost is

    ttft_weight * sum of TTFT + latency_weight * sum of latency        (seconds)

over its requests. While a request waits for its first token its TTFT so far is `now - arrival`, and
likewise its latency while it is unfinished, so the cost is defined at any instant and only grows. The
reward of a decision is minus its growth until the next decision; the undiscounted return is minus the cost.

>>> before = cost_so_far(0.0, 0, 0.0, 0, now_s=1.0, ttft_weight=1.0, latency_weight=0.0)
>>> # two requests came at 1.0 and 1.25 (offset -2.25) and both wait at 1.5: 0.5 s + 0.25 s so far
>>> after = cost_so_far(-2.25, 2, -2.25, 2, now_s=1.5, ttft_weight=1.0, latency_weight=0.0)
>>> before - after
-0.75
"""

from servegym.costmodels.jit import kernel


@kernel
def cost_so_far(
    ttft_offset_s: float,
    num_before_first_token: int,
    latency_offset_s: float,
    num_unfinished: int,
    now_s: float,
    ttft_weight: float,
    latency_weight: float,
) -> float:
    """Cost in seconds up to `now_s`.

    ttft_offset_s: sum over requests of first-token time (where there is one) minus arrival time;
    num_before_first_token: requests without a first token; likewise latency with finish times.
    """
    ttft_s = ttft_offset_s + num_before_first_token * now_s
    latency_s = latency_offset_s + num_unfinished * now_s
    return ttft_weight * ttft_s + latency_weight * latency_s
