"""A zoo of real networks on one type of GPU: batch latencies as measured, one curve for each of them.

A network is one for each size, sequence length and precision that `profiles/dnn_batch_latency.json` states;
curves without a precision are left out. Of the runtimes and machines that it was measured with, the zoo has
the one with the least latency at the largest batch that all of them reach. These rules are ours.
"""

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np

from servegym.costmodels.batch import (
    DnnProfile,
    LinearBatchLatency,
    TabulatedBatchLatency,
    load_dnn_profiles,
)

_RESNET_50 = ("RN50v1.5", "resnet50", "resnet50v1.5")
"""Its names at the source, beside `ResNet-50`."""
_PRECISION = re.compile(r"(?:precision |with |; )(FP16|FP32|TF32|Mixed Precision)\b", re.IGNORECASE)
_PARAMETERS = re.compile(r"\b(\d+B) parameters")
_SEQUENCE = re.compile(r"\bsequence length (\d+)")


class Network(NamedTuple):
    """A network of the zoo, named after size, sequence length and precision: `BERT-large-384-FP32`.

    latency: measured times with a running maximum over the batch sizes, so that no larger batch takes less;
    where measuring began with more than one request, smaller batches take as long as that one.
    linear: `l(b) = alpha b + beta` fitted to the measured times.
    """

    name: str
    latency: TabulatedBatchLatency
    linear: LinearBatchLatency


@cache
def zoo(gpu: str) -> tuple[Network, ...]:
    """All networks on a GPU, the quickest with one request first.

    InputError, listing the known ones, for a GPU without profiles.
    """
    variants: dict[str, list[DnnProfile]] = {}
    for profile in load_dnn_profiles(gpu):
        name = _name(profile)
        if name is not None:
            variants.setdefault(name, []).append(profile)
    networks = [_network(name, _fastest(profiles)) for name, profiles in variants.items()]
    return tuple(sorted(networks, key=lambda network: (network.latency.latency_s[0], network.name)))


def _name(profile: DnnProfile) -> str | None:
    """None where no precision is stated."""
    precision = _PRECISION.search(profile.variant)
    if precision is None:
        return None
    found = (pattern.search(profile.variant) for pattern in (_PARAMETERS, _SEQUENCE))
    facts = [each[1] for each in found if each]
    network = "ResNet-50" if profile.model in _RESNET_50 else profile.model
    return "-".join([network, *facts, precision[1].upper().replace("MIXED PRECISION", "mixed")])


def _fastest(profiles: Iterable[DnnProfile]) -> DnnProfile:
    """The least latency at the largest batch that all can run; of equals the first."""
    profiles = list(profiles)
    batch = min(profile.measured.batch[-1] for profile in profiles)
    return min(profiles, key=lambda profile: float(profile.measured.seconds(batch)))


def _network(name: str, profile: DnnProfile) -> Network:
    sizes = list(profile.measured.batch)
    times = np.maximum.accumulate(profile.measured.latency_s).tolist()
    if sizes[0] > 1:
        sizes, times = [1, *sizes], [times[0], *times]
    return Network(name, TabulatedBatchLatency(tuple(sizes), tuple(times)), profile.linear)
