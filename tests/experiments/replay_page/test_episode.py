"""What a page is given: times in ticks, KV use as steps, objectives."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegym.experiments.configs import load_config
from servegym.experiments.replay_page.episode import (
    MET,
    MISSED,
    NEVER,
    NOT_PROMISED,
    Episode,
    episode_of,
    thinned,
)
from servegym.experiments.simulate import SimulateConfig
from servegym.experiments.simulate import run as run_simulation
from tests.experiments.commands import SMALL_SCENARIO, answer_of


@pytest.fixture
def episode_in(folder: Path, capsys: pytest.CaptureFixture[str]):
    """The episode of a simulation with some settings, and its table of requests."""

    def make(*words: str) -> tuple[Episode, dict[str, list]]:
        answer_of(capsys, "simulate", *SMALL_SCENARIO, *words, "out=run")
        settings = load_config(folder / "run/config.yaml", SimulateConfig)
        scenario, workload, results = run_simulation(settings, log=True)
        table = pq.read_table(folder / "run/requests.parquet").to_pydict()
        return episode_of(scenario, workload, results, settings), table

    return make


def seconds(episode: Episode, name: str) -> np.ndarray:
    ticks = episode.arrays[name]
    return np.where(ticks == NEVER, np.nan, ticks * episode.about["tick_s"])


def test_times_are_those_of_the_table(episode_in):
    impatient = ("cancel_share=0.5", "mean_patience_s=1")
    episode, table = episode_in("router=random", *(f"scenario.workload.clients.{each}" for each in impatient))
    assert episode.about["tick_s"] == 1e-6
    for name, column in (
        ("arrival", "arrival_s"),
        ("scheduled", "scheduled_s"),
        ("first_token", "first_token_s"),
    ):
        wanted = np.array(table[column], float)
        np.testing.assert_allclose(seconds(episode, name), wanted, atol=0.5e-6)
    ended_s = np.fmax(np.array(table["finish_s"], float), np.array(table["cancelled_s"], float))
    np.testing.assert_allclose(seconds(episode, "end"), ended_s, atol=0.5e-6)
    outcomes = np.array(episode.about["outcomes"])[episode.arrays["outcome"]]
    assert outcomes.tolist() == table["outcome"]
    assert episode.arrays["prompt_tokens"].tolist() == table["prompt_tokens"]
    assert episode.arrays["num_phases"].sum() == len(episode.arrays["phase_start"])


def test_kv_use_is_that_of_every_iteration(episode_in):
    episode, _ = episode_in("router=jsq", "scenario.engine.num_kv_blocks=900")
    settings = load_config(Path("run/config.yaml"), SimulateConfig)
    iterations = run_simulation(settings, log=True)[2].log.iterations
    first = 0
    for number, replica in enumerate(episode.about["replicas"]):
        assert replica["num_kv_blocks"] == 900
        steps = slice(first, first + replica["kv_steps"])
        first = steps.stop
        time_s, blocks = seconds(episode, "kv_time")[steps], episode.arrays["kv_blocks"][steps]
        here = iterations[iterations["replica"] == number]
        middle_s = (here["start_s"] + here["end_s"]) / 2
        np.testing.assert_array_equal(blocks[np.searchsorted(time_s, middle_s) - 1], here["kv_used_blocks"])
        assert blocks[-1] == 0  # nothing is left to do
    assert first == len(episode.arrays["kv_time"])


def test_objectives(episode_in):
    limits = "objective.slo_ttft_s=0.05", "objective.slo_tpot_s=0.02"
    episode, table = episode_in("router=jsq", *(f"scenario.{limit}" for limit in limits))
    assert episode.about["objective"] == "TTFT ≤ 0.05 s and TPOT ≤ 0.02 s"
    pairs = zip(table["ttft_s"], table["tpot_s"], strict=True)
    in_time = [ttft <= 0.05 and (tpot is None or tpot <= 0.02) for ttft, tpot in pairs]
    assert 0 < sum(in_time) < len(in_time)
    assert episode.arrays["objective"].tolist() == [MET if each else MISSED for each in in_time]

    classes = "[{name:a,share:0.5,ttft_s:9,tpot_s:9},{name:b,share:0.5,ttft_s:inf,tpot_s:inf}]"
    episode, _ = episode_in("router=jsq", f"scenario.workload.clients.slo_classes={classes}")
    assert episode.about["objective"] == "by class"
    assert set(episode.arrays["objective"].tolist()) == {MET, NOT_PROMISED}


def test_thinned_steps_keep_their_extremes():
    rng = np.random.default_rng(0)
    time_s, values = np.arange(10_000.0), rng.integers(0, 1000, 10_000)
    kept_s, kept = thinned(time_s, values, 100)
    assert len(kept) <= 100
    assert set(zip(kept_s, kept, strict=True)) <= set(zip(time_s, values, strict=True))
    assert (np.diff(kept_s) > 0).all()
    for stretch in range(0, 10_000, 200):
        inside = (kept_s >= stretch) & (kept_s < stretch + 200)
        assert kept[inside].min() == values[stretch : stretch + 200].min()
        assert kept[inside].max() == values[stretch : stretch + 200].max()
    assert thinned(time_s, values, 10_000)[1] is values


def test_the_last_few_steps_may_be_fewer():
    time_s, values = np.arange(11.0), np.array([5, 1, 9, 2, 8, 3, 7, 4, 6, 6, 0])
    kept_s, kept = thinned(time_s, values, 4)
    assert kept_s.tolist() == [1, 2, 6, 10] and kept.tolist() == [1, 9, 7, 0]
