"""What a configuration of batch serving becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.costmodels.errors import InputError
from servegym.costmodels.zoo import zoo
from servegym.envs.batch_scenario import BatchScenario, load_batch_scenario
from servegym.envs.batch_scenario.config import BatchScenarioConfig, ServedModelConfig
from servegym.envs.batch_scenario.stream import BatchEpisodeStream
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.compose import compose_scenario_of, list_scenarios
from servegym.envs.sim.batch.cluster import SYMPHONY_DELAYS

AZURE = "traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"


BASE = compose_scenario_of(BatchScenarioConfig, "resnet50_8gpu")


def load(*overrides: str) -> BatchScenario:
    """As `load_batch_scenario("resnet50_8gpu", overrides)`, but quicker."""
    words = OmegaConf.from_dotlist([override.removeprefix("scenario.") for override in overrides])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BASE), words))
    assert isinstance(config, BatchScenarioConfig)
    return BatchScenario(config)


@pytest.mark.parametrize("name", list_scenarios(BatchScenarioConfig))
def test_every_scenario_gives_requests_at_its_rate(name: str) -> None:
    scenario = load_batch_scenario(
        name, ("scenario.workload.requests=20000", "scenario.workload.seconds=null")
    )
    assert scenario.name == name
    workload = scenario.traffic.test_workload(0)
    assert workload.num_requests == 20_000
    assert workload.rate_rps == pytest.approx(scenario.rate_rps, rel=0.1)
    assert 0 <= workload.model.min() <= workload.model.max() < len(scenario.cluster.models)
    counts = np.bincount(workload.model, minlength=len(scenario.cluster.models)) / 20_000
    assert np.abs(counts - scenario.traffic.shares).max() < 0.05


def test_scenarios_of_other_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="azure_conv_1xh100: is of LLM fleets, must be one of day_shape"):
        load_batch_scenario("azure_conv_1xh100")
    with pytest.raises(InputError, match="day_shape: is of batch serving, must be one of arxiv_8xh100"):
        load_scenario("day_shape")
    with pytest.raises(InputError, match="scenario = resnet: must be one of day_shape"):
        load_batch_scenario("resnet")


def test_symphonys_network_and_delays() -> None:
    scenario = load_batch_scenario("resnet50_8gpu_delays")
    (model,) = scenario.cluster.models
    assert model.latency_s[:2] == pytest.approx((6.125e-3, 7.178e-3))
    assert model.slo_s == pytest.approx(25e-3)
    assert scenario.cluster.delays == SYMPHONY_DELAYS
    # The largest that can be in time: 5.072 + 0.1 + 2 + 1.103 b <= 25 ms.
    assert model.max_batch == 16
    assert load().cluster.models[0].max_batch == 18


def test_tables_are_linear_between() -> None:
    table = "scenario.models=[{name: a, batch: [1, 4], latency_ms: [2, 8], slo_ms: 9}]"
    assert load(table).cluster.models[0].latency_s == pytest.approx((2e-3, 4e-3, 6e-3, 8e-3))


def test_joules_of_a_batch() -> None:
    """`e(b) = 0.5 b + 2`; none where none are given. They are what `energy_weight` weighs."""
    model = "name: a, alpha_ms: 1, beta_ms: 1, slo_ms: 9, max_batch: 3"
    scenario = load(
        f"scenario.models=[{{{model}, alpha_j: 0.5, beta_j: 2}}]", "scenario.workload.requests=200"
    )
    assert scenario.cluster.models[0].energy_j == (2.5, 3.0, 3.5)
    results = scenario.simulate(scenario.traffic.test_workload(0), make_batch_scheduler("symphony"))
    assert results.num_batches > 0
    served = int((results.batch_size > 0).sum())
    assert results.energy_j == pytest.approx(0.5 * served + 2 * results.num_batches)
    assert load(f"scenario.models=[{{{model}}}]").cluster.models[0].energy_j == ()


def test_models_that_do_not_all_fit_on_a_gpu() -> None:
    cluster = load_batch_scenario("loading_2gpu").cluster
    assert cluster.has_limited_memory
    assert sum(model.memory_bytes for model in cluster.models) > cluster.gpu_memory_bytes
    assert all(0 < model.load_s < model.slo_s for model in cluster.models)


def test_models_of_the_zoo() -> None:
    scenario = load_batch_scenario("scale_1000gpu_100models")
    networks, models = zoo("V100"), scenario.cluster.models
    assert len(models) == len({model.name for model in models}) == 100
    original, copy = models[5], models[5 + 2 * len(networks)]
    assert (original.name, copy.name) == (networks[5].name, f"{networks[5].name}-copy2")
    assert original.latency_s == copy.latency_s
    assert original.latency_s[15] == networks[5].latency.seconds(16)
    assert original.slo_s == pytest.approx(2 * float(networks[5].latency.seconds(4)))
    assert models[0].slo_s == 10e-3  # the least
    linear = load_batch_scenario("zoo_24_models", ("scenario.zoo.law=linear", "scenario.zoo.slo_factor=3"))
    law = networks[5].linear
    assert linear.cluster.models[5].latency_s == pytest.approx(law.seconds(np.arange(1, 17)))
    assert linear.cluster.models[5].slo_s == pytest.approx(3 * float(law.seconds(4)))


def test_popularity() -> None:
    model = "{{name: {}, alpha_ms: 1, beta_ms: 1, slo_ms: 9, share: {}}}"
    two = f"{model.format('a', 0.9)}, {model.format('b', 0.1)}"
    given = load(f"scenario.models=[{two}]", "scenario.workload.popularity=shares")
    np.testing.assert_array_equal(given.traffic.shares, [0.9, 0.1])
    zipf = load(f"scenario.models=[{two}]", "scenario.workload.popularity=zipf")
    np.testing.assert_allclose(zipf.traffic.shares, [2 / 3, 1 / 3])


def test_test_workloads_and_training_episodes_share_nothing() -> None:
    traffic = load("scenario.workload.requests=500", "scenario.episode.requests=500").traffic
    again = load("scenario.workload.requests=500").traffic
    np.testing.assert_array_equal(traffic.test_workload(3).arrival_s, again.test_workload(3).arrival_s)
    assert not np.array_equal(traffic.test_workload(3).arrival_s, traffic.test_workload(4).arrival_s)
    episodes = [traffic.train_workload(seed) for seed in np.random.SeedSequence(3).spawn(40)]
    gaps = {round(float(gap_s), 12) for gap_s in np.diff(traffic.test_workload(3).arrival_s)}
    for episode in episodes:
        assert len(gaps & {round(float(gap_s), 12) for gap_s in np.diff(episode.arrival_s)}) < 5
    rates = np.array([episode.rate_rps for episode in episodes]) / 5000.0
    assert 0.7 < rates.min() < 0.9 and 1.1 < rates.max() < 1.35  # drawn from 0.8 to 1.2, and noise


def test_episodes_of_a_stream_are_reproducible() -> None:
    scenario = load("scenario.episode.requests=50")
    streams = [BatchEpisodeStream(scenario, "train") for _ in range(2)]
    for stream in streams:
        stream.restart(7)
    first = streams[0].next_workload()
    np.testing.assert_array_equal(first.arrival_s, streams[1].next_workload().arrival_s)
    assert not np.array_equal(first.arrival_s, streams[0].next_workload().arrival_s)


def test_seconds_instead_of_requests() -> None:
    traffic = load("scenario.workload.requests=null", "scenario.workload.seconds=2").traffic
    assert traffic.test_workload(0).num_requests == traffic.max_requests("test") == 10_000


def test_arrivals_of_a_trace(real_data: Callable[[str], Path]) -> None:
    real_data(AZURE)
    words = (f"scenario.workload.trace={AZURE}", "scenario.workload.requests=3000")
    traffic = load(*words, "scenario.workload.test_s=1200").traffic
    workload = traffic.test_workload(0)
    assert workload.num_requests == 3000
    assert 0.5 < workload.rate_rps / 5000.0 < 1.5  # the test part's own rate, at the training part's factor
    assert traffic.train_workload(np.random.SeedSequence(0)).num_requests == 2048
    with pytest.raises(
        InputError, match=r"scenario.workload.requests = 60000: must be at most the \d+ requests"
    ):
        load(words[0]).traffic.test_workload(0)


@pytest.mark.parametrize(
    "override, words",
    [
        ("scenario.models=[]", "scenario.models, scenario.zoo.gpu: exactly one"),
        ("scenario.zoo.gpu=V100", "exactly one of them must be given"),
        ("scenario.fleet.num_gpus=0", "scenario.fleet.num_gpus = 0: must be at least 1"),
        ("scenario.fleet.initial_gpus=9", "scenario.fleet.initial_gpus = 9"),
        ("scenario.delays.data_ms=-1", "scenario.delays.data_s = -0.001"),
        ("scenario.workload.requests=1", "scenario.workload.requests = 1"),
        ("scenario.workload.seconds=1", "exactly one of them"),
        ("scenario.workload.shape=0.1", "scenario.workload.shape = 0.1: must be 1, or arrivals gamma"),
        ("scenario.workload.arrivals=weibull", "must be one of poisson, gamma, constant"),
        ("scenario.workload.rate_rps=0", "scenario.workload.rate_rps = 0"),
        ("scenario.workload.profile=day", "rate profile is 'day', allowed: servegen_m_large_day"),
        ("scenario.workload.trace=nowhere.csv", "scenario.workload.trace = nowhere.csv: no such file"),
        ("scenario.workload.popularity=shares", "shares of the models"),
        ("scenario.models=[{name: a, alpha_ms: 1, slo_ms: 9}]", "given by alpha_ms and beta_ms, or by batch"),
        (
            "scenario.models=[{name: a, alpha_ms: 1, beta_ms: 0, slo_ms: inf}]",
            "model a: max_batch: must be given",
        ),
        ("scenario.models=[{name: a, alpha_ms: -1, beta_ms: 0, slo_ms: 9}]", "model a: .*alpha_s is -0.001"),
        ("scenario.models=[{name: a, alpha_ms: 8, beta_ms: 2, slo_ms: 9}]", "model a: slo_s = 0.009"),
        (
            "scenario.models=[{name: a, batch: [1, 2], latency_ms: [2, 1], slo_ms: 9}]",
            "model a: latency_s of a batch of 2 = 0.001: must be at least that of 1",
        ),
        (
            "scenario.models=[{name: a, batch: [1], latency_ms: [2], slo_ms: 9, max_batch: 2}]",
            "max_batch = 2: must be at most 1",
        ),
        ("scenario.fleet.memory_gb=0", "scenario.fleet.memory_gb = 0.0: must be above 0"),
        (
            "scenario.fleet.memory_gb=16",
            "scenario.fleet.memory_gb = 16: must be inf where no model has a memory_",
        ),
        (
            "scenario.models=[{name: a, alpha_ms: 1, beta_ms: 0, slo_ms: 9, alpha_j: -1}]",
            r"scenario.models \(a\).alpha_j = -1.0: must be at least 0 and finite",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(override)


def test_names_of_models_are_unique() -> None:
    model: dict[str, Any] = {"name": "a", "alpha_ms": 1.0, "beta_ms": 1.0, "slo_ms": 9.0}
    config = compose_scenario_of(BatchScenarioConfig, "resnet50_8gpu")
    config.models = [ServedModelConfig(**model)] * 2
    with pytest.raises(InputError, match="a is given twice"):
        BatchScenario(config)
    with pytest.raises(InputError, match="no batch latencies on GPU 'H100'"):
        load("scenario.models=[]", "scenario.zoo.gpu=H100")
