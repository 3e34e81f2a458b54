import pytest

from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from tests.reference.batch.fleet import Fleet
from tests.reference.batch.target_size import RateMeter, target_size


def fleet(alpha_s, beta_s, slo_s, *delays_s):
    served = ServedModel("m", tuple(alpha_s * b + beta_s for b in range(1, 65)), slo_s)
    return Fleet(BatchCluster((served,), 1, Delays(*delays_s)), 1)


@pytest.mark.parametrize(
    "law, size",
    [((1.053e-3, 5.072e-3, 0.025), 16), ((5.090e-3, 18.368e-3, 0.070), 8)],
)
def test_symphonys_example(law, size):
    """The rate at which 8 GPUs are just enough calls for the staggered batch of 8 GPUs."""
    served = fleet(*law)
    rate = 8 * size / served.latency(0, size)
    assert target_size(served, 0, rate * (1 + 1e-9)) == size


def test_worked_cases():
    """`l(b) = 4 + b` and 20 s: staggered on 2.8 GPUs; alone on one; half; none."""
    served = fleet(1.0, 4.0, 20.0)
    assert target_size(served, 0, 2.0) == 10  # 14 * (1 + 1 / 2.8) = 19; of 11: 15 * (1 + 1 / 2.7) = 20.5
    assert target_size(served, 0, 0.5) == 5  # n <= 1; 4 + b + 2 b <= 20
    assert target_size(served, 0, None) == 6
    assert target_size(served, 0, 0.0) == 1


def test_delays_come_off_the_budget():
    """Budget 20 - 1 - 2 = 17; `4 + b + 2 b + b / 4 <= 17`."""
    assert target_size(fleet(1.0, 4.0, 20.0, 1.0, 0.25, 2.0), 0, 0.5) == 4


def test_the_rate_is_that_of_complete_buckets():
    meter = RateMeter()
    for at in (0.0, 0.01, 0.06, 0.12):
        meter.arrive(at)
    assert meter.rate(0.04) is None
    assert meter.rate(0.12) == pytest.approx(3 / 0.1)
    assert meter.rate(5.06) == pytest.approx(2 / 5)  # the first bucket has gone out


def test_no_objective_has_no_limit():
    assert target_size(fleet(1.0, 4.0, float("inf")), 0, 0.1) == 64
