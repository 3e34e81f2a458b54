"""Elastic clocks beside the times that LoongServe's artifact keeps of LWM-7B on A800 GPUs.

    python -m servegym.experiments.fits.check_elastic

Identical requests in one batch, KV spread evenly over the instances. Source: LoongServe/LoongServe, printed
outputs of test/longserve/3-data-analyse-intro.ipynb (the data of figure 3, and one row of the database).
"""

import sys
from typing import NamedTuple

import numpy as np

from servegym.costmodels.elastic.cost import attention_seconds, master_seconds, prefill_seconds
from servegym.costmodels.elastic.presets import load_elastic_cost


class Timing(NamedTuple):
    """One batch: its parallelism, its size, and milliseconds of its prefill and of one decode iteration."""

    instances: int
    tensor_parallel: int
    requests: int
    tokens: int  # of each request
    masters: int
    prefill_ms: float
    decode_ms: float


PUBLISHED = (
    Timing(1, 1, 1, 1000, 1, 68.88760375976562, 13.01193618774414),
    Timing(1, 8, 512, 1000, 1, 7757.44792, 38.8672333),
    Timing(1, 8, 128, 5000, 1, 10156.9834, 37.7617607),
    Timing(1, 8, 64, 10_000, 1, 10791.9287, 36.3806725),
    Timing(1, 8, 16, 50_000, 1, 19506.4590, 42.9301453),
    Timing(1, 8, 4, 100_000, 1, 13546.3018, 26.3580799),
    Timing(1, 8, 1, 500_000, 1, 51135.4727, 37.5766411),
    Timing(2, 4, 512, 1000, 2, 5775.61035, 42.5490227),
    Timing(2, 4, 128, 5000, 1, 7694.33708, 40.3438072),
    Timing(2, 4, 64, 10_000, 1, 8306.22852, 38.1499519),
    Timing(2, 4, 16, 50_000, 1, 16594.9655, 44.9204788),
    Timing(2, 4, 4, 100_000, 1, 12146.9896, 28.0251846),
    Timing(2, 4, 1, 500_000, 1, 51699.8516, 41.6053772),
    Timing(4, 2, 512, 1000, 4, 5267.09619, 42.2528954),
    Timing(4, 2, 128, 5000, 2, 7071.78418, 41.3734093),
    Timing(4, 2, 64, 10_000, 2, 7701.12939, 40.1384010),
    Timing(4, 2, 16, 50_000, 1, 15744.4495, 45.8901443),
    Timing(4, 2, 4, 100_000, 1, 11798.3678, 28.9095688),
    Timing(4, 2, 1, 500_000, 1, 53605.8984, 37.7857933),
)


def ours_ms(timing: Timing) -> tuple[float, float]:
    """Milliseconds of the same prefill and decode by the committed clock."""
    k, requests, tokens = timing.instances, timing.requests, timing.tokens
    cost = load_elastic_cost("lwm_7b", "a800_sxm", timing.tensor_parallel, k, k)
    decode_s = master_seconds(cost, -(-requests // timing.masters))
    decode_s += attention_seconds(cost, requests, requests * tokens // k)
    if k > 1:
        decode_s += float(cost.exchange_s[0, requests])
    return 1e3 * prefill_seconds(cost, 0, k, requests * tokens, requests * tokens**2), 1e3 * decode_s


def main() -> int:
    """The command; returns its exit code."""
    print("sp tp  requests x tokens  masters   prefill ms  ours   error   decode ms  ours   error")
    errors = []
    for each in PUBLISHED:
        prefill_ms, decode_ms = ours_ms(each)
        errors.append((prefill_ms / each.prefill_ms - 1, decode_ms / each.decode_ms - 1))
        print(
            f"{each.instances:2d} {each.tensor_parallel:2d}  {each.requests:8d} x {each.tokens:6d}  "
            f"{each.masters:7d}   {each.prefill_ms:10.1f} {prefill_ms:7.1f} {errors[-1][0]:+6.1%}   "
            f"{each.decode_ms:9.1f} {decode_ms:5.1f} {errors[-1][1]:+6.1%}"
        )
    table = np.abs(errors)
    for name, column in zip(("prefill", "decode"), table.T, strict=True):
        print(f"{name}: mean error {column.mean():.1%}, largest {column.max():.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
