"""Models and clusters that cannot be are refused by name."""

import math
from typing import Any

import pytest

from servegym.costmodels.batch import LinearBatchLatency, TabulatedBatchLatency
from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.cluster import SYMPHONY_DELAYS, BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.staggered import analytic_goodput

LAW = LinearBatchLatency(1.053e-3, 5.072e-3)
RESNET50 = ServedModel.of_law("resnet50", LAW, 64, 25e-3)
INCEPTION = ServedModel.of_law("inception_resnet_v2", LinearBatchLatency(5.090e-3, 18.368e-3), 64, 70e-3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"latency_s": ()}, "model m: latency_s = (): must be at least one batch size"),
        (
            {"latency_s": (1.0, -1.0)},
            "model m: latency_s of a batch of 2 = -1.0: must be above 0 and finite",
        ),
        ({"latency_s": (1.0, math.nan)}, "latency_s of a batch of 2 = nan: must be above 0"),
        ({"latency_s": (1.0, 2.0, 1.5)}, "latency_s of a batch of 3 = 1.5: must be at least that of 2, 2.0"),
        ({"slo_s": 0.0}, "model m: slo_s = 0.0: must be above 0"),
        ({"energy_j": (1.0, 2.0)}, "model m: energy_j = 2 values: must be 1, or none"),
        ({"energy_j": (-1.0,)}, "energy_j of a batch of 1 = -1.0: must be at least 0 and finite"),
        ({"load_s": -1.0}, "model m: load_s = -1.0: must be at least 0 and finite"),
        ({"memory_bytes": math.inf}, "model m: memory_bytes = inf: must be at least 0 and finite"),
    ],
)
def test_bad_models(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        ServedModel(**{"name": "m", "latency_s": (1.0,), **settings})
    assert message in str(error.value)


def test_bad_largest_batch() -> None:
    with pytest.raises(InputError, match="model m: max_batch = 0: must be at least 1"):
        ServedModel.of_law("m", LAW, 0)


def test_bad_clusters() -> None:
    with pytest.raises(InputError, match="models: must be at least one"):
        BatchCluster((), 1)
    with pytest.raises(InputError, match="num_gpus = 0: must be at least 1"):
        BatchCluster((RESNET50,), 0)
    with pytest.raises(InputError, match=r"delays.data_s = -1: must be at least 0"):
        Delays(data_s=-1)
    hasty = ServedModel.of_law("hasty", LAW, 4, 7e-3)
    BatchCluster((hasty,), 1)
    with pytest.raises(InputError, match=r"model hasty: slo_s = 0.007: must be at least 0.008275, what a"):
        BatchCluster((hasty,), 1, SYMPHONY_DELAYS)
    large = ServedModel("large", (1.0,), memory_bytes=6.0)
    with pytest.raises(
        InputError, match="gpu_memory_bytes = 10: must hold the two largest models at once, 12"
    ):
        BatchCluster((large, large), 1, gpu_memory_bytes=10)


@pytest.mark.parametrize(
    "model, staggered, goodput_rps, batch",
    [  # of 8 GPUs, by hand from N b / l(b)
        (RESNET50, True, 5839.4, 16),
        (RESNET50, False, 4500.5, 7),
        (INCEPTION, True, 1083.1, 8),
        (INCEPTION, False, 713.5, 3),
    ],
)
def test_analytic_goodput(model: ServedModel, staggered: bool, goodput_rps: float, batch: int) -> None:
    rps, size = analytic_goodput(model, 8, staggered)
    assert (round(rps, 1), size) == (goodput_rps, batch)


def test_analytic_goodput_where_nothing_is_in_time() -> None:
    model = ServedModel.of_law("m", LAW, 4, 7e-3)
    with pytest.raises(InputError, match=r"model m: slo_s = 0.007: no batch is in time on 1 GPUs"):
        analytic_goodput(model, 1)


def test_a_law_is_taken_over() -> None:
    table = TabulatedBatchLatency((1, 4), (1.0, 4.0))
    assert ServedModel.of_law("m", table, 4).latency_s == (1.0, 2.0, 3.0, 4.0)
    with pytest.raises(InputError):
        ServedModel.of_law("m", table, 5)
