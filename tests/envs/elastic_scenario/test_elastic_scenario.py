"""What a configuration of elastic sequence parallelism becomes."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from servegym.costmodels.elastic.presets import Degree, load_prefill_laws
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import kv_capacity_blocks
from servegym.costmodels.specs import gpu_spec, model_spec
from servegym.envs.elastic_scenario import ElasticScenario, load_elastic_scenario
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.elastic_scenario.stream import ElasticEpisodeStream
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.compose import compose_scenario_of, list_scenarios

BASE = compose_scenario_of(ElasticScenarioConfig, "mixed_16a800")


def load(*overrides: str) -> ElasticScenario:
    """As `load_elastic_scenario("mixed_16a800", overrides)`, but quicker."""
    words = OmegaConf.from_dotlist([override.removeprefix("scenario.") for override in overrides])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BASE), words))
    assert isinstance(config, ElasticScenarioConfig)
    return ElasticScenario(config)


@pytest.mark.parametrize("name", list_scenarios(ElasticScenarioConfig))
def test_every_scenario_gives_requests_at_its_rate_that_fit_its_fleet(name: str) -> None:
    scenario = load_elastic_scenario(name, ("scenario.workload.requests=20000",))
    assert scenario.name == name
    workload = scenario.traffic.test_workload(0)
    assert workload.num_requests == 20_000 == scenario.traffic.max_requests("test")
    assert workload.rate_rps == pytest.approx(scenario.rate_rps, rel=0.03)
    most = (workload.prompt_tokens + workload.output_tokens).max()
    assert most <= scenario.fleet.num_instances * scenario.fleet.kv_tokens
    assert scenario.manager.max_requests == scenario.fleet.max_group


def test_the_fleet_is_loongserves() -> None:
    fleet = load().fleet
    assert (fleet.num_instances, fleet.instances_per_node, fleet.kv_tokens) == (8, 4, 210_000)
    # 512 KiB a token, half of it on each GPU: at 400 GiB/s and at 100 Gb/s
    np.testing.assert_allclose(fleet.cost.migrate_s_per_token, [2**18 / (400 * 2**30), 2**18 / 12.5e9])
    laws = load_prefill_laws("lwm_7b", "a800_sxm")
    for instances, crosses in ((4, False), (8, True)):
        law = laws[Degree(2, instances, crosses)]
        expected = [law.constant_s, law.per_token_s, law.per_token_squared_s]
        assert fleet.cost.prefill_s[int(crosses), instances].tolist() == expected
    assert load_elastic_scenario("sharegpt_8a800").fleet.num_instances == 4


def test_kv_tokens_by_memory() -> None:
    fleet = load_elastic_scenario("mixed_8h100").fleet
    assert fleet.kv_tokens == 16 * kv_capacity_blocks(model_spec("llama_3_1_8b"), gpu_spec("h100_sxm"))


def test_links_and_decode_time_reach_the_clock() -> None:
    slow = load(
        "scenario.fleet.node_link_bytes_per_s=1e9",
        "scenario.fleet.far_link_bytes_per_s=5e8",
        "scenario.fleet.decode_s=0.022",
    ).fleet.cost
    np.testing.assert_allclose(slow.migrate_s_per_token, [2**18 / 1e9, 2**18 / 5e8])
    assert slow.decode_s == 0.022
    assert (slow.exchange_s[0, 1:] > load().fleet.cost.exchange_s[0, 1:]).all()


def test_the_same_gpus_as_other_instances_serve_the_same_traffic_within_the_same_limits() -> None:
    scenario = load_elastic_scenario("zipf_1_0_8a800")
    whole = scenario.recut(tensor_parallel=8, instances=1, instances_per_node=1, kv_tokens=900_000)
    assert whole.fleet.num_instances == 1 and whole.fleet.kv_tokens == 900_000
    ours, theirs = (each.traffic.test_workload(1) for each in (scenario, whole))
    assert np.array_equal(ours.arrival_s, theirs.arrival_s)
    assert np.array_equal(ours.prompt_tokens, theirs.prompt_tokens)
    prompts = [10, 30_000, 200_000]
    assert scenario.ttft_limit_s(prompts).tolist() == whole.ttft_limit_s(prompts).tolist()
    assert not np.array_equal(whole.fleet.cost.prefill_s[0, 1], scenario.fleet.cost.prefill_s[0, 4])
    overrides = (
        "scenario.fleet.tensor_parallel=8",
        "scenario.fleet.instances=1",
        "scenario.fleet.instances_per_node=1",
        "scenario.fleet.kv_tokens=900000",
    )
    other = load_elastic_scenario("zipf_1_0_8a800", overrides)
    assert np.array_equal(other.fleet.cost.prefill_s, whole.fleet.cost.prefill_s)
    assert other.ttft_limit_s(200_000) != scenario.ttft_limit_s(200_000)  # it has a whole fleet of its own


def test_a_first_token_may_take_25_times_the_prefill_alone_on_the_whole_fleet() -> None:
    scenario = load_elastic_scenario("zipf_1_0_8a800")
    constant, per_token, per_token_squared = scenario.fleet.cost.prefill_s[0, 4]
    tokens = np.array([100, 50_000, 200_000])
    alone_s = constant + per_token * tokens + per_token_squared * tokens.astype(float) ** 2
    assert 25 * alone_s[0] < 15 < 25 * alone_s[1]
    np.testing.assert_allclose(scenario.ttft_limit_s(tokens), np.maximum(25 * alone_s, 15))
    tight = load_elastic_scenario(
        "zipf_1_0_8a800", ("scenario.slo.ttft_times=2", "scenario.slo.ttft_least_s=0.1")
    )
    np.testing.assert_allclose(tight.ttft_limit_s(tokens), np.maximum(2 * alone_s, 0.1))


def test_weights_are_one_over_the_lines_unless_given() -> None:
    assert load().weights == (1 / 0.065, 1 / 0.064, 1 / 0.2, 1.0)
    assert load("scenario.objective.input_weight=0", "scenario.objective.late_weight=3").weights[1::2] == (
        0,
        3,
    )
    assert load_elastic_scenario("zipf_1_4_8a800").weights == (0.0, 0.0, 0.0, 1.0)


def test_test_workloads_and_training_episodes_share_nothing() -> None:
    traffic = load("scenario.workload.requests=400", "scenario.episode.requests=400").traffic
    again = load("scenario.workload.requests=400").traffic
    test = traffic.test_workload(3)
    assert np.array_equal(test.arrival_s, again.test_workload(3).arrival_s)
    assert np.array_equal(test.prompt_tokens, again.test_workload(3).prompt_tokens)
    assert not np.array_equal(test.prompt_tokens, traffic.test_workload(4).prompt_tokens)
    episodes = [traffic.train_workload(seed) for seed in np.random.SeedSequence(3).spawn(40)]
    gaps = set(np.diff(test.arrival_s).round(9).tolist())
    for episode in episodes:
        assert episode.num_requests == 400
        assert len(gaps & set(np.diff(episode.arrival_s).round(9).tolist())) < 3
        assert not np.array_equal(episode.prompt_tokens, test.prompt_tokens)
    rates = np.array([episode.rate_rps for episode in episodes]) / 0.7
    assert 0.65 < rates.min() < 0.9 and 1.1 < rates.max() < 1.4  # drawn from 0.8 to 1.2, and noise


def test_lengths_are_the_same_at_every_rate() -> None:
    slow, fast = (load(f"scenario.workload.rate_rps={rate}").traffic.test_workload(0) for rate in (0.1, 5))
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens)
    np.testing.assert_allclose(slow.arrival_s, 50 * fast.arrival_s)


def test_episodes_of_a_stream_are_reproducible() -> None:
    scenario = load("scenario.episode.requests=50")
    streams = [ElasticEpisodeStream(scenario, "train") for _ in range(2)]
    for stream in streams:
        stream.restart(0)
    first = streams[0].next_workload()
    assert np.array_equal(first.prompt_tokens, streams[1].next_workload().prompt_tokens)
    assert not np.array_equal(first.prompt_tokens, streams[0].next_workload().prompt_tokens)


def test_scenarios_of_other_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="azure_conv_1xh100: is of LLM fleets, must be one of l_eval_8a800"):
        load_elastic_scenario("azure_conv_1xh100")
    with pytest.raises(InputError, match="mixed_8a800: is of elastic sequence parallelism, must be one of"):
        load_scenario("mixed_8a800")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("fleet.tensor_parallel=0", "scenario.fleet.tensor_parallel = 0: must be at least 1"),
        ("fleet.tensor_parallel=3", "scenario.fleet: tensor_parallel is 3, must be one of 1, 2, 4, 8"),
        ("fleet.instances=6", "instances = 6: must be at most instances_per_node (4) or a multiple of it"),
        ("fleet.instances=16", "sequence parallelism 9 of tensor_parallel 2 in more than one node has no"),
        (
            "fleet.instances_per_node=8",
            "scenario.fleet: sequence parallelism 5 of tensor_parallel 2 in one node",
        ),
        (
            "fleet.node_link_bytes_per_s=null",
            "node_link_bytes_per_s = None: must be given, positive and finite",
        ),
        ("fleet.far_link_bytes_per_s=null", "it links instances of several nodes"),
        ("fleet.far_link_bytes_per_s=inf", "far_link_bytes_per_s = inf: must be given, positive and finite"),
        ("fleet.kv_tokens=0", "scenario.fleet.kv_tokens = 0: must be at least 1"),
        ("fleet.decode_s=-1", "scenario.fleet.decode_s = -1.0: must be at least 0 and finite"),
        ("fleet.model=gpt5", "scenario.fleet: no coefficients of gpt5 on a800_sxm"),
        ("workload.lengths=alpaca", "scenario.workload.lengths = alpaca: must be one of sharegpt, l_eval"),
        ("workload.lengths=zipf", "scenario.workload.zipf_exponent = None: must be given with lengths zipf"),
        (
            "workload.zipf_exponent=1",
            "scenario.workload.zipf_exponent = 1.0: must be given with lengths zipf",
        ),
        (
            "workload.lengths=zipf workload.zipf_exponent=-1",
            "zipf_exponent = -1.0: must be at least 0 and finite",
        ),
        ("workload.rate_rps=0", "scenario.workload.rate_rps = 0.0: must be positive and finite"),
        ("workload.requests=1", "scenario.workload.requests = 1: must be at least 2"),
        ("slo.total_s=0", "scenario.slo.total_s = 0.0: must be positive and finite"),
        ("slo.tpot_s=nan", "scenario.slo.tpot_s = nan: must be positive and finite"),
        ("slo.attainment=1.1", "scenario.slo.attainment = 1.1: must be in (0, 1]"),
        ("manager.max_requests=0", "scenario.manager.max_requests = 0: must be at least 1"),
        ("manager.out_of_order=-1", "scenario.manager.out_of_order = -1: must be at least 0"),
        ("manager.decoding_s=0", "scenario.manager.decoding_s = 0.0: must be positive and finite"),
        ("objective.late_weight=-1", "scenario.objective.late_weight = -1.0: must be at least 0 and finite"),
        ("episode.requests=0", "scenario.episode.requests = 0: must be at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused_when_it_is_read(overrides: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(*overrides.split())
    assert message in str(caught.value)


def test_unknown_keys_and_missing_values_are_refused() -> None:
    with pytest.raises(OmegaConfBaseException):
        load("scenario.fleet.num_gpus=8")
    with pytest.raises(InputError, match="no value for scenario.fleet.gpu"):
        load_elastic_scenario("mixed_8a800", ("scenario.fleet.gpu=???",))
