"""Training episodes: no turn of a session without the one before it, and rates that follow a profile."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.config import EpisodeConfig, WorkloadConfig
from servegym.envs.scenario.traffic import Traffic
from servegym.envs.workloads import Workload
from servegym.envs.workloads.rate_profile import load_profile
from servegym.envs.workloads.stretches import Stretches


def sessions_traffic(monkeypatch: pytest.MonkeyPatch, **workload: object) -> tuple[Traffic, Workload]:
    """Traffic of 300 requests, every third of which opens a conversation; prompts tell them apart."""
    parent = np.array(
        [-1 if i % 3 == 0 else i - 3 if i % 3 == 1 and i > 3 else i - i % 3 for i in range(300)]
    )
    whole = Workload(
        "sessions",
        np.arange(300) * 2.0,
        1000 + 10 * np.arange(300),
        np.ones(300, np.int64),
        parent=parent,
        think_s=np.ones(300),
    )
    monkeypatch.setattr("servegym.envs.scenario.traffic.read_trace", lambda path, format: whole)
    settings: dict[str, Any] = {"trace": __file__, "rate_rps": 5.0, "test_s": 50.0, "keep": 0.5, **workload}
    config = WorkloadConfig(**settings)
    return Traffic(
        config, EpisodeConfig(requests=40, rate_spread=0.0), lambda workload: np.ones(0, bool)
    ), whole


def test_no_turn_comes_without_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, whole = sessions_traffic(monkeypatch)
    assert whole.parent is not None
    opened = set()
    for seed in range(100):
        episode = traffic.train_workload(np.random.SeedSequence(seed))
        assert episode.num_requests == 40 and episode.arrival_s[0] == 0 and episode.parent is not None
        number = (episode.prompt_tokens - 1000) // 10
        assert np.all(np.diff(number) > 0)
        follows = episode.parent >= 0
        np.testing.assert_array_equal(whole.parent[number] >= 0, follows)
        np.testing.assert_array_equal(whole.parent[number[follows]], number[episode.parent[follows]])
        opened.add(int(number[0]))
    assert len(opened) > 30


def test_without_sessions_any_stretch_of_the_kept_requests_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stretches begin with any of the kept requests but the last 39."""
    traffic, whole = sessions_traffic(monkeypatch)
    traffic._stretches = Stretches(replace(whole.take(slice(0, 50)), parent=None, think_s=None))
    traffic.config.keep = 1.0
    firsts = [traffic.train_workload(np.random.SeedSequence(seed)).prompt_tokens[0] for seed in range(200)]
    assert set(firsts) == {1000 + 10 * i for i in range(11)}


@pytest.mark.parametrize(
    "name, parameters, check",
    [
        ("exact", {}, lambda truth, guess: np.array_equal(truth, guess)),
        ("bucketed", {"edges": [0, 4, 8]}, lambda truth, guess: set(guess) == {2, 6}),
        ("ranked", {"kendall_tau": 0.5}, lambda truth, guess: sorted(truth) == sorted(guess)),
        ("noisy", {"mean_relative_error": 1.0}, lambda truth, guess: len(set(guess)) > 8),
    ],
)
def test_predictors_by_name(monkeypatch, name, parameters, check) -> None:
    traffic, whole = sessions_traffic(monkeypatch, predictor=name, predictor_parameters=parameters)
    lengths = 1 + np.arange(300) % 8
    traffic._stretches = Stretches(replace(whole, parent=None, think_s=None, output_tokens=lengths))
    episode = traffic.train_workload(np.random.SeedSequence(0))
    assert episode.predicted_output_tokens is not None
    assert check(episode.output_tokens, episode.predicted_output_tokens)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"predictor": "oracle"}, "workload.predictor = oracle: must be null, or one of exact, noisy"),
        ({"predictor": "ranked"}, "predictor_parameters = {}: must be given kendall_tau, which ranked needs"),
        (
            {"predictor": "bucketed", "predictor_parameters": {"edge": 3}},
            "predictor_parameters = edge: must be one of edges, accuracy",
        ),
        ({"predictor_parameters": {"accuracy": 1}}, "predictor_parameters = accuracy: must be none"),
        (
            {"predictor": "exact", "prediction_error": 0.1},
            "prediction_error = 0.1: must be null where predictor is given",
        ),
    ],
)
def test_predictors_that_do_not_exist_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorkloadConfig(rate_rps=1.0, **settings)  # type: ignore[arg-type]


def day_traffic(period_s: float) -> Traffic:
    scenario = load_scenario(
        "azure_day_8xh100", (f"scenario.workload.period_s={period_s}", "scenario.episode.rate_spread=0")
    )
    return scenario.traffic


def test_the_rate_of_generated_requests_follows_the_profile() -> None:
    workload = day_traffic(10.0).test_workload(0)  # some four days
    factors = load_profile("servegen_m_large_day").factors
    quarters = np.histogram(workload.arrival_s % 10.0, bins=8, range=(0.0, 10.0))[0]
    expected = factors.reshape(8, -1).mean(axis=1)
    assert expected.max() > 1.5 * expected.min()
    assert workload.rate_rps == pytest.approx(130.0, rel=0.08)
    np.testing.assert_allclose(quarters / quarters.mean(), expected / expected.mean(), atol=0.15)


def test_training_episodes_begin_anywhere_in_the_profile() -> None:
    traffic = day_traffic(1000.0)  # of which an episode is 8 s
    rates = [traffic.train_workload(np.random.SeedSequence(seed)).rate_rps for seed in range(40)]
    assert min(rates) < 100 < 160 < max(rates)
    assert traffic.train_workload(np.random.SeedSequence(0)).arrival_s[0] < 1.0


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"profile": "day"}, "workload.period_s = None: must be given with a profile"),
        ({"period_s": 9.0}, "workload.period_s = 9.0: must be given with a profile, and only then"),
        ({"profile": "day", "period_s": 0.0}, "workload.period_s = 0.0: must be positive"),
        (
            {"profile": "day", "period_s": 9.0, "trace": "t"},
            "workload.profile = day: must be null with a trace",
        ),
    ],
)
def test_a_profile_has_a_period_and_no_trace(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorkloadConfig(rate_rps=1.0, **settings)  # type: ignore[arg-type]


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="rate profile is 'day', allowed: servegen_m_large_day"):
        load_scenario("azure_day_8xh100", ("scenario.workload.profile=day",))
