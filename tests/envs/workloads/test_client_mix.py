import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.client_mix import ClientWindow, LengthHistogram, generate_from_clients

TEN = LengthHistogram(np.array([10], np.int32), np.array([1.0]))
MIXED = LengthHistogram(np.array([3, 700], np.int32), np.array([0.25, 0.75]))


@pytest.mark.parametrize("law, shape", [("gamma", 0.06), ("gamma", 4.0), ("weibull", 0.4), ("weibull", 3.0)])
def test_mean_count_is_rate_times_length_from_the_first_instant_on(law, shape):
    # Short windows and bursty laws: a process that began with an ordinary gap would miss by far.
    window = ClientWindow(50.0, 60.0, 0.5, law, shape)
    rng = np.random.default_rng(0)
    runs = [window.arrivals(2.0, rng) for _ in range(4000)]
    counts = np.array([len(times_s) for times_s in runs])
    assert abs(counts.mean() - 10.0) < 4 * counts.std() / np.sqrt(4000)
    early = np.array([(times_s < 51.0).sum() for times_s in runs])
    assert abs(early.mean() - 1.0) < 4 * early.std() / np.sqrt(4000)
    for times_s in runs:
        assert (np.diff(times_s) >= 0).all() and ((times_s >= 50.0) & (times_s < 60.0)).all()


@pytest.mark.parametrize(
    "law, shape, cv",
    [("gamma", 0.25, 2.0), ("gamma", 4.0, 0.5), ("weibull", 0.5, np.sqrt(5.0)), ("weibull", 1.0, 1.0)],
)
def test_gaps_have_the_mean_and_variation_of_their_law(law, shape, cv):
    times_s = ClientWindow(0.0, 50_000.0, 2.0, law, shape).arrivals(1.0, np.random.default_rng(1))
    gaps_s = np.diff(times_s)
    assert gaps_s.mean() == pytest.approx(0.5, rel=5 * cv / np.sqrt(len(gaps_s)))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.05)


def test_requests_come_in_order_with_the_lengths_of_their_client():
    windows = [
        ClientWindow(600.0, 1200.0, 5.0, "gamma", 1.0, TEN, MIXED),
        ClientWindow(1200.0, 1800.0, 5.0, "weibull", 0.7, MIXED, TEN),
    ]
    workload = generate_from_clients(windows, np.random.SeedSequence(0))
    first = workload.arrival_s < 600.0
    assert set(workload.prompt_tokens[first]) == {10} and set(workload.output_tokens[~first]) == {10}
    share = (workload.output_tokens[first] == 700).mean()
    assert abs(share - 0.75) < 4 * np.sqrt(0.25 * 0.75 / first.sum())
    faster = generate_from_clients(windows, np.random.SeedSequence(0), rate_factor=3.0)
    assert faster.num_requests == pytest.approx(3 * workload.num_requests, rel=0.1)


def test_another_client_changes_nothing_for_the_first():
    one = ClientWindow(0.0, 600.0, 1.0, "gamma", 0.5, TEN, TEN)
    two = ClientWindow(0.0, 600.0, 1.0, "gamma", 0.5, MIXED, MIXED)
    alone = generate_from_clients([one], np.random.SeedSequence(7))
    both = generate_from_clients([one, two], np.random.SeedSequence(7))
    assert both.arrival_s[both.prompt_tokens == 10].tolist() == alone.arrival_s.tolist()


def test_clients_without_lengths_borrow_whole_pairs():
    known = ClientWindow(0.0, 600.0, 1.0, "gamma", 1.0, TEN, MIXED)
    unknown = ClientWindow(0.0, 600.0, 9.0, "gamma", 1.0)
    workload = generate_from_clients([known, unknown], np.random.SeedSequence(0))
    assert workload.num_requests == pytest.approx(6000, rel=0.1)
    assert set(workload.prompt_tokens) == {10} and set(workload.output_tokens) == {3, 700}


def test_nothing_to_draw_from_is_refused():
    window = ClientWindow(0.0, 600.0, 1.0, "gamma", 1.0)
    with pytest.raises(InputError, match="none with known lengths"):
        generate_from_clients([window], np.random.SeedSequence(0))
    with pytest.raises(InputError, match="client windows are none"):
        generate_from_clients([], np.random.SeedSequence(0))
    with pytest.raises(InputError, match="rate factor is 0"):
        generate_from_clients([window], np.random.SeedSequence(0), rate_factor=0.0)
