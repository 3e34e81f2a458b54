import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import Workload
from servegym.envs.workloads.batch_arrivals import draw_from_trace, generate_batch_workload
from servegym.envs.workloads.popularity import read_shares, zipf_shares
from servegym.envs.workloads.rate_profile import RateProfile, load_profile
from servegym.envs.workloads.stretches import Stretches

HALVES = RateProfile("halves", np.array([1.0, 3.0]), {})


def seed(number: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence(number)


@pytest.mark.parametrize(
    "arrivals, shape, cv", [("poisson", 1.0, 1.0), ("gamma", 0.1, 10**0.5), ("gamma", 4.0, 0.5)]
)
def test_gaps_of_a_model_have_the_mean_and_variation_of_their_law(
    arrivals: str, shape: float, cv: float
) -> None:
    workload = generate_batch_workload(arrivals, 40.0, [0.75, 0.25], 80_000, seed(), shape=shape)
    for model, rate_rps in ((0, 30.0), (1, 10.0)):
        gaps_s = np.diff(workload.arrival_s[workload.model == model])
        assert gaps_s.mean() == pytest.approx(1 / rate_rps, rel=5 * cv / np.sqrt(len(gaps_s)))
        assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.06)


def test_constant_gaps_begin_at_a_phase_of_their_own() -> None:
    workload = generate_batch_workload("constant", 8.0, [0.5, 0.25, 0.25], 800, seed())
    phases = []
    for model, gap_s in enumerate((0.25, 0.5, 0.5)):
        times_s = workload.arrival_s[workload.model == model]
        np.testing.assert_allclose(np.diff(times_s), gap_s)
        assert 0 < times_s[0] < gap_s
        phases.append(times_s[0] / gap_s)
    assert len(set(phases)) == 3


@pytest.mark.parametrize("arrivals, shape", [("poisson", 1.0), ("gamma", 0.1), ("constant", 1.0)])
def test_one_seed_gives_the_same_requests_at_every_rate(arrivals: str, shape: float) -> None:
    slow, fast = (
        generate_batch_workload(
            arrivals, rate, zipf_shares(5, 0.9), 3000, seed(), shape=shape, profile=HALVES
        )
        for rate in (10.0, 25.0)
    )
    np.testing.assert_array_equal(slow.model, fast.model)
    np.testing.assert_allclose(slow.arrival_s, 2.5 * fast.arrival_s)


def test_a_longer_workload_begins_with_the_shorter_one() -> None:
    short, long = (
        generate_batch_workload("gamma", 10.0, [0.5, 0.5], n, seed(), shape=0.1) for n in (50, 5000)
    )
    np.testing.assert_array_equal(long.model[:50], short.model)
    np.testing.assert_allclose(long.arrival_s[:50], short.arrival_s)


def test_models_draw_from_streams_of_their_own() -> None:
    """A model of the same share has the same arrivals whoever else there is."""
    two, three = (
        generate_batch_workload("poisson", 4.0, shares, 400, seed())
        for shares in ([0.5, 0.5], [0.5, 0.25, 0.25])
    )
    own = [each.arrival_s[each.model == 0] for each in (two, three)]
    count = min(map(len, own))
    assert count > 150
    np.testing.assert_allclose(own[0][:count], own[1][:count])


def test_a_model_that_nobody_wants_gets_nothing() -> None:
    workload = generate_batch_workload("poisson", 4.0, [0.0, 1.0], 100, seed())
    assert set(workload.model) == {1}


def test_the_rate_follows_the_profile_and_the_mean_stays() -> None:
    workload = generate_batch_workload(
        "poisson", 100.0, [1.0], 100_000, seed(), profile=HALVES, period_s=10.0
    )
    assert workload.rate_rps == pytest.approx(100.0, rel=0.02)
    early = (workload.arrival_s % 10.0) < 5.0
    assert early.mean() == pytest.approx(0.25, abs=0.01)


def test_constant_gaps_through_a_profile_have_its_gaps_within_each_interval() -> None:
    workload = generate_batch_workload("constant", 4.0, [1.0], 40, seed(), profile=HALVES)
    early = workload.arrival_s < 5.0  # a quarter of the requests in the first half of 10 s
    assert early.sum() == 10
    np.testing.assert_allclose(np.diff(workload.arrival_s[early]), 0.5)
    np.testing.assert_allclose(np.diff(workload.arrival_s[~early]), 1 / 6)


def test_the_committed_day_is_a_day() -> None:
    day = load_profile("servegen_m_large_day")
    assert len(day.factors) == 144
    assert day.factors.mean() == pytest.approx(1.0)
    assert day.factors.max() > 3 * day.factors.min() > 0
    assert day.provenance["licence"] == "Apache-2.0"
    with pytest.raises(InputError, match="rate profile is 'day', allowed: servegen_m_large_day"):
        load_profile("day")


@pytest.mark.parametrize("factors", [[], [0.0, 0.0], [1.0, -1.0], [np.nan], [[1.0]]])
def test_impossible_profiles_are_refused(factors: list[float]) -> None:
    with pytest.raises(InputError, match="rate profile 'p': factors"):
        RateProfile("p", np.array(factors), {})


def test_popularity() -> None:
    np.testing.assert_allclose(zipf_shares(3, 1.0), np.array([6, 3, 2]) / 11)
    np.testing.assert_allclose(zipf_shares(4, 0.0), 0.25)
    for bad in ([0.5, 0.4], [1.5, -0.5], [np.nan, 1.0]):
        with pytest.raises(InputError, match="shares of the models"):
            read_shares(bad)
    with pytest.raises(InputError, match="exponent"):
        zipf_shares(3, -1.0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"arrivals": "weibull"}, "arrivals is 'weibull', allowed: poisson, gamma, constant"),
        ({"rate_rps": 0.0}, "rate_rps is 0.0"),
        ({"num_requests": 0}, "num_requests is 0"),
        ({"shape": 0.5}, "shape is 0.5 for poisson arrivals"),
        ({"arrivals": "gamma", "shape": 0.0}, "shape is 0.0"),
        ({"shares": [0.5]}, "shares"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"arrivals": "poisson", "rate_rps": 1.0, "shares": [1.0], "num_requests": 10}
    with pytest.raises(InputError, match=words):
        generate_batch_workload(**(given | arguments), seed=seed())  # type: ignore[arg-type]


def test_a_trace_gives_arrivals_and_shares_give_models() -> None:
    count = 20_000
    ones = np.ones(count, np.int32)
    times_s = np.cumsum(np.random.default_rng(3).exponential(0.5, count))
    trace = Stretches(Workload("trace", times_s, ones, ones))
    workload = draw_from_trace(trace, 10.0, [0.2, 0.8], 10_000, 0.5, seed())
    assert workload.arrival_s[0] == 0.0
    assert workload.num_requests == 10_000
    assert workload.rate_rps == pytest.approx(10.0, rel=0.05)  # 2 a second, half of them kept, 10 times
    assert workload.model.mean() == pytest.approx(0.8, abs=0.02)
    again = draw_from_trace(trace, 20.0, [0.2, 0.8], 10_000, 0.5, seed())
    np.testing.assert_array_equal(again.model, workload.model)
    np.testing.assert_allclose(again.arrival_s * 2, workload.arrival_s)
