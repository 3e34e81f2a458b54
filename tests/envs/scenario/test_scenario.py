"""Scenarios: train and test traffic never overlap, rates are as asked, mistakes are named."""

from dataclasses import fields, replace

import gymnasium as gym
import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import decode_seconds
from servegym.envs.metrics import ttft_s
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.scenario.compose import compose_scenario, list_group
from servegym.envs.scenario.config import EngineConfig
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.engine import SCHEDULERS, Engine
from servegym.envs.sim.llm.ranking import ARRIVAL_S, Ranking
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload, read_csv

AZURE = "traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"


@pytest.fixture
def trace(tmp_path):
    """A trace whose requests can be told apart: request i has a prompt of i + 1 tokens."""
    path = tmp_path / "trace.csv"
    lines = [f"{i * 0.5},{i + 1},{i % 7 + 1}" for i in range(1000)]
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n".join(lines) + "\n")
    return path


def from_trace(trace, *overrides: str):
    """A scenario on that trace; its last 100 s are held out."""
    return load_scenario(
        "generated_8xh100",
        (
            f"scenario.workload.trace={trace}",
            "scenario.workload.format=csv",
            "scenario.workload.test_s=100",
            "scenario.episode.requests=200",
            *overrides,
        ),
    )


def test_training_never_sees_test_requests(trace) -> None:
    """No request of 200 training episodes is in the test part; together they miss few."""
    traffic = from_trace(trace).traffic
    trained, tested = set(), set()
    for seed in range(200):
        trained |= set(traffic.train_workload(np.random.SeedSequence(seed)).prompt_tokens.tolist())
        tested |= set(traffic.test_workload(seed).prompt_tokens.tolist())
    held_out = {i + 1 for i in range(1000) if i * 0.5 >= 499.5 - 100}
    assert tested == held_out
    assert trained <= set(range(1, 1001)) - held_out
    assert len(trained) > 0.95 * (1000 - len(held_out))


@pytest.mark.parametrize("rate_rps", [5.0, 80.0])
@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_rate_is_as_asked(trace, rate_rps: float, keep: float) -> None:
    traffic = from_trace(
        trace,
        f"scenario.workload.rate_rps={rate_rps}",
        f"scenario.workload.keep={keep}",
        "scenario.episode.rate_spread=0.0",
    ).traffic
    rates = [traffic.train_workload(np.random.SeedSequence(seed)).rate_rps for seed in range(20)]
    assert np.mean(rates) == pytest.approx(rate_rps, rel=0.05)
    rates = [traffic.test_workload(seed).rate_rps for seed in range(20)]
    assert np.mean(rates) == pytest.approx(rate_rps, rel=0.05)


def test_training_rates_spread(trace) -> None:
    traffic = from_trace(trace, "scenario.workload.keep=1.0", "scenario.episode.rate_spread=0.5").traffic
    rates = [traffic.train_workload(np.random.SeedSequence(seed)).rate_rps for seed in range(200)]
    assert min(rates) == pytest.approx(0.5 * 160, rel=0.05)
    assert max(rates) == pytest.approx(1.5 * 160, rel=0.05)


def test_generated_train_and_test_traffic_differ() -> None:
    """No episode of training stream s repeats lengths or predictions of a test workload, s included."""
    scenario = load_scenario("generated_8xh100", ("scenario.workload.prediction_error=0.3",))
    tests = [scenario.traffic.test_workload(seed) for seed in range(3)]
    for seed in range(3):
        stream = EpisodeStream(scenario, "train")
        stream.restart(seed)
        for _ in range(5):
            train = stream.next_workload()
            for test in tests:
                assert np.mean(train.prompt_tokens == test.prompt_tokens[: train.num_requests]) < 0.05
                noise, other = (
                    np.log(part.predicted_output_tokens[:1000] / part.output_tokens[:1000])
                    for part in (train, test)
                )
                assert abs(np.corrcoef(noise, other)[0, 1]) < 0.2


def test_a_test_part_that_thinning_empties_is_refused(tmp_path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n10,5,5\n300,5,5\n")
    traffic = from_trace(path, "scenario.workload.keep=0.01").traffic
    with pytest.raises(
        InputError, match="workload.keep = 0.01: leaves none of the 1 test requests with seed 0"
    ):
        traffic.test_workload(0)


def test_predictions_have_the_stated_error(trace) -> None:
    traffic = load_scenario("generated_8xh100", ("scenario.workload.prediction_error=0.3",)).traffic
    workload = traffic.test_workload(0)
    error = np.abs(workload.predicted_output_tokens / workload.output_tokens - 1)
    assert np.mean(error) == pytest.approx(0.3, abs=0.02)


def test_the_generator_stands_in_where_the_trace_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SERVEGYM_DATA", str(tmp_path))
    scenario = load_scenario("azure_conv_8xh100")
    assert scenario.traffic.source == "generator fitted to azure_conv_2023"
    with pytest.raises(InputError, match=r"workload.trace = traces/.*: no such file.*SERVEGYM_DATA"):
        load_scenario("azure_conv_8xh100", ("scenario.workload.fitted=null",))


def test_the_real_trace_is_replayed_where_it_is(real_data) -> None:
    real_data(AZURE)
    scenario = load_scenario("azure_conv_8xh100")
    assert scenario.traffic.source == "trace AzureLLMInferenceTrace_conv.csv.gz"
    assert scenario.traffic.test_workload(0).rate_rps == pytest.approx(160 * 4.76 / 5.93, rel=0.02)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scenario.workload.keep=0", r"workload.keep = 0.0: must be in \(0, 1\]"),
        ("scenario.workload.rate_rps=-1", "workload.rate_rps = -1.0: must be positive"),
        ("scenario.workload.arrivals=weekly", "workload.arrivals = weekly: must be poisson or gamma"),
        ("scenario.fleet.gpu=h900", "fleet.gpu = h900: must be one of a100_sxm, a800_sxm, h100_sxm"),
        ("scenario.fleet.model=gpt", "fleet.model = gpt: must be one of llama_2_7b"),
        ("scenario.fleet.replicas=0", "fleet.replicas = 0: must be from 1 to 4096"),
        ("scenario.engine.max_num_seqs=5000", "engine.max_num_seqs"),
        ("scenario.engine.scheduler=trt", "scenario.engine.scheduler = trt: must be one of vllm_v1, sarathi"),
        ("scenario.engine.order=rank", "scenario.engine.order = rank: must be fcfs or priority"),
        ("scenario.engine.block_size=0", "engine.block_size = 0"),
        ("scenario.engine.watermark=1", "scenario.engine.watermark = 1.0: must be at least 0 and below 1"),
        ("scenario.engine.scheduler=ranked", "scenario.engine.scheduler = ranked: must be another: it comes"),
        (
            "scenario.engine.reserved_output_share=2",
            "scenario.engine.reserved_output_share = 2.0: must be from",
        ),
        ("scenario.engine.swap_s_per_block=-1", "scenario.engine.swap_blocks = 0, swap_s_per_block = -1.0"),
        ("scenario.engine.max_model_len=-1", "scenario.engine.max_model_len = -1: must be at least 0"),
        ("scenario.objective.ttft_weight=-1", "objective.ttft_weight = -1.0: must be at least 0"),
        ("scenario.episode.requests=0", "episode.requests = 0: must be at least 1"),
        ("scenario.costmodel.kind=guess", "costmodel.kind = guess: must be one of roofline, cal"),
        ("scenario.fleet.replica=4", "replica"),
        ("scenario.fleet.replicas=many", "replicas"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_scenario("generated_8xh100", (override,))
    assert "\n" not in str(error.value)


def test_a_request_beyond_the_kv_cache_names_its_line(trace) -> None:
    assert read_csv(trace).num_requests == 1000
    with pytest.raises(InputError, match=r"trace.csv, line \d+: request \d+ with \d+ prompt"):
        from_trace(trace, "scenario.engine.num_kv_blocks=20")


def test_more_episode_requests_than_the_trace_has(trace) -> None:
    scenario = from_trace(trace, "scenario.episode.requests=900")
    with pytest.raises(InputError, match="episode.requests = 900: must be at most"):
        scenario.traffic.train_workload(np.random.SeedSequence(0))


def test_the_clock_is_the_scenarios_choice() -> None:
    costs = {
        kind: load_scenario(
            "generated_8xh100",
            (f"costmodel@scenario.costmodel={kind}", "scenario.costmodel.cpu_overhead_s=0.002"),
        ).cost
        for kind in ("roofline", "calibrated", "measured")
    }
    seconds = {kind: decode_seconds(cost, 32, 32_000) for kind, cost in costs.items()}
    assert len(set(seconds.values())) == 3
    assert max(seconds.values()) < 1.1 * min(seconds.values())
    assert {cost.overhead_s for cost in costs.values()} == {0.002}


def test_a_fleet_without_measured_kernels_is_refused() -> None:
    with pytest.raises(InputError, match="no measured cost model of llama_2_7b on 1 x h100_sxm; there are"):
        load_scenario(
            "generated_8xh100",
            ("costmodel@scenario.costmodel=measured", "scenario.fleet.model=llama_2_7b"),
        )


@pytest.mark.parametrize("name", list_group("engine"))
def test_every_engine_serves_the_same_requests(name: str) -> None:
    """Each file of `conf/engine` makes an engine that can serve the longest request of the Azure trace."""
    scenario = load_scenario("generated_8xh100", (f"engine@scenario.engine={name}",))
    assert scenario.engine.scheduler == (name if name in SCHEDULERS else "vllm_v1")
    assert scenario.engine.prefix_caching == (name in ("sglang", "vllm_v1_prefix_caching"))
    assert scenario.engine.order == ("priority" if name == "vllm_v1_priority" else "fcfs")
    scenario.engine.check_fits(Workload("longest", [0.0], [14050], [39]))


def test_settings_of_an_engine_are_those_of_the_simulator() -> None:
    """Under the same names and with the same defaults, so that a scenario can ask for all of them."""
    ours = {field.name: field.default for field in fields(EngineConfig)}
    theirs = {field.name: field.default for field in fields(Engine)}
    assert set(theirs) - set(ours) == {"restart_cuts_prompt"}  # for replays only
    limits = {"max_num_batched_tokens", "max_num_seqs", "num_kv_blocks"}
    assert {k: v for k, v in ours.items() if k not in limits} == {
        k: v for k, v in theirs.items() if k not in limits | {"restart_cuts_prompt"}
    }
    scenario = load_scenario(
        "generated_8xh100",
        (
            "engine@scenario.engine=vllm_v0",
            "scenario.engine.preemption=swap",
            "scenario.engine.swap_blocks=500",
            "scenario.engine.swap_s_per_block=0.0001",
            "scenario.engine.watermark=0.02",
        ),
    )
    engine = scenario.engine
    assert (engine.preemption, engine.swap_blocks, engine.swap_s_per_block) == ("swap", 500, 0.0001)
    assert engine.watermark_blocks == int(0.02 * engine.num_kv_blocks)


def test_mooncakes_prompts_hit_the_prefix_cache(real_data) -> None:
    real_data("traces/mooncake_fast25/conversation_trace.jsonl.gz")
    scenario = load_scenario("mooncake_conv_8xh100", ("scenario.workload.test_s=100",))
    workload = scenario.traffic.test_workload(0)
    run = {"num_replicas": 2, "cost": scenario.cost}
    router = make_router("round_robin")
    with_cache = simulate(workload, router, engine=scenario.engine, **run)
    without = simulate(workload, router, engine=replace(scenario.engine, prefix_caching=False), **run)
    assert 0.02 < with_cache.hit_tokens.sum() / workload.prompt_tokens.sum() < 0.5
    assert without.hit_tokens.sum() == 0
    assert ttft_s(with_cache).mean() < ttft_s(without).mean()


def _last_first(requests, replica, parameters, memory, keys):
    keys[:] = -requests[:, ARRIVAL_S]


@pytest.mark.parametrize("ranks", ["queue", "batch"])
def test_a_ranking_serves_a_scenario(ranks: str) -> None:
    """On the plain fleet and on any other, whose engines ask it; the same requests finish otherwise."""
    seats = "scenario.engine.max_num_seqs=4"
    for extra in ((), ("scenario.fleet.dispatch_latency_s=0.01",)):
        config = compose_scenario("generated_8xh100", (seats, *extra))
        scenario = Scenario(config, ranking=Ranking("last_first", _last_first, ranks))
        workload = scenario.traffic.test_workload(0).take(slice(0, 200))
        router = make_router("round_robin")
        results = scenario.simulate(workload, router)
        assert results.finished.all()
        assert not np.array_equal(results.finish_s, Scenario(config).simulate(workload, router).finish_s)
        with pytest.raises(InputError, match="scheduler last_first: must be none in an environment"):
            gym.make("servegym/Routing-v0", scenario=scenario)


def test_a_scenario_without_what_a_ranking_needs_is_refused() -> None:
    ranking = Ranking("mine", _last_first, needs=frozenset({"tenants"}))
    scenario = Scenario(compose_scenario("generated_8xh100"), ranking=ranking)
    with pytest.raises(InputError, match="scheduler mine needs tenants: the scenario has none"):
        scenario.check_ranking()
    shares = ("scenario.workload.clients.tenant_shares=[0.5,0.5]",)
    Scenario(compose_scenario("generated_8xh100", shares), ranking=ranking).check_ranking()


def test_a_ranking_that_an_engine_cannot_use_is_named() -> None:
    ranking = Ranking("mine", _last_first)
    caching = compose_scenario("generated_8xh100", ("scenario.engine.prefix_caching=true",))
    with pytest.raises(InputError, match="scenario.scheduler mine: engine.prefix_caching = True: only with"):
        Scenario(caching, ranking=ranking)


def test_mean_output_is_of_what_training_sees(trace) -> None:
    """Outputs are 1 to 7 in turns; the last 100 s, here of 10 tokens, are held out."""
    lines = trace.read_text().splitlines()
    cut = [
        f"{line.rpartition(',')[0]},10" if float(line.split(",")[0]) >= 399.5 else line for line in lines[1:]
    ]
    trace.write_text("\n".join([lines[0], *cut]) + "\n")
    assert from_trace(trace).traffic.mean_output_tokens == pytest.approx(4, rel=0.01)


def test_mean_output_of_a_generator_is_that_of_its_requests() -> None:
    traffic = load_scenario("generated_8xh100").traffic
    outputs = np.concatenate([traffic.test_workload(seed).output_tokens for seed in range(3)])
    assert traffic.mean_output_tokens == pytest.approx(outputs.mean(), rel=0.01)
