"""What Llumnix's claims are measured with: lengths of the artifact, time lost to preemption."""

import numpy as np
import pytest

from servegym.experiments.claims.llumnix_fleet import GENERATED, preemption_loss_s, requests, serve, zipf


@pytest.mark.parametrize(("mean", "exponent"), [(128, 2.0), (256, 1.5), (512, 1.15)])
def test_lengths_are_zipf_with_their_mean(mean: int, exponent: float) -> None:
    drawn = np.array([zipf(mean, np.random.default_rng(seed)) for seed in range(5)])
    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    assert drawn.max() <= 6_144
    share_of_shortest = 1 / (np.arange(1, 2 * mean) ** -exponent).sum()
    assert (drawn == drawn.min(axis=1, keepdims=True)).mean() == pytest.approx(share_of_shortest, rel=0.02)


@pytest.mark.compiled
def test_time_lost_to_preemption() -> None:
    trace = GENERATED[3]
    results = serve(requests(trace, 1.6 * trace.rates[-1], 1), "INFaaS++", trace.threshold, log=True)
    log = results.log
    assert log is not None and len(log.preemptions) > 100
    number = np.repeat(np.arange(len(log.iterations)), log.iterations["num_entries"])
    expected_s = 0.0
    for lost in log.preemptions[:20]:
        served = log.iterations[number[log.entries["request"] == lost["request"]]]
        later = served[served["start_s"] >= lost["time_s"]]
        expected_s += later["end_s"].min() - lost["time_s"]
    total_s = preemption_loss_s(results)
    assert total_s > expected_s
    log.preemptions.resize(20, refcheck=False)
    assert preemption_loss_s(results) == pytest.approx(expected_s)


@pytest.mark.compiled
def test_moving_requests_are_preempted_less() -> None:
    trace = GENERATED[0]
    workload = requests(trace, 1.5 * trace.rates[-1], 0)
    still, moving = (serve(workload, name, trace.threshold) for name in ("INFaaS++", "Llumnix"))
    assert still.migrations.sum() == 0 < moving.migrations.sum()
    assert moving.preemptions.sum() < still.preemptions.sum()
