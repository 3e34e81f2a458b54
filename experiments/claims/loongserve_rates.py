"""The largest rates at which LoongServe and its rivals keep a line, measured as its artifact measures them.

Requests come for 1,000 seconds at every rate, but are at least 100 and at most 20,000: within what the
artifact's README sends to the systems. Where the artifact's settings differ by data set they are the
scenario's."""

import functools
from typing import NamedTuple

from servegym.agents.elastic_systems import ElasticSystem, make_elastic_system
from servegym.envs.elastic_scenario import ElasticScenario, load_elastic_scenario
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.elastic_lines import largest_rates

SECONDS, FEWEST, MOST = 1_000, 100, 20_000
"""Of a run, and its requests."""

TOLERANCE = 0.01

KV_TOKENS = 900_000
"""Of eight GPUs as one instance (`5-start-api-server.py`)."""


LINES = ("total_s", "input_s")
"""Of LoongServe's Fig. 10 and 11."""


ONE_BATCH = True
"""What the batching of the authors' code comes to (docs/elastic_sequence_parallelism.md)."""


class Setting(NamedTuple):
    """A scenario, the rate that searches begin at, and the lines that are looked for."""

    scenario: str
    guess_rps: float
    lines: tuple[str, ...] = LINES


DATA_SETS = {
    "ShareGPT": Setting("sharegpt_8a800", 20.0),
    "L-Eval": Setting("l_eval_8a800", 1.5),
    "LV-Eval": Setting("lv_eval_8a800", 0.1),
    "Mixed": Setting("mixed_8a800", 0.3),
}
TWO_NODES = Setting("mixed_16a800", 0.5)
ZIPF = {
    "1.0": Setting("zipf_1_0_8a800", 0.7, ("attainment",)),
    "1.2": Setting("zipf_1_2_8a800", 2.0, ("attainment",)),
    "1.4": Setting("zipf_1_4_8a800", 5.0, ("attainment",)),
}


@functools.cache
def scenario_of(name: str) -> ElasticScenario:
    """With test workloads as long as any run."""
    return load_elastic_scenario(name, (f"scenario.workload.requests={MOST}",))


@functools.cache
def one_instance(name: str) -> ElasticScenario:
    """The same GPUs as one instance, TP8."""
    return scenario_of(name).recut(8, 1, 1, KV_TOKENS)


def requests_at(scenario: ElasticScenario, seed: int, rate_rps: float) -> Workload:
    """The first requests of a seed, as many as come in SECONDS, closer together the higher the rate."""
    whole = _requests(scenario.name, seed)
    first = whole.take(slice(min(MOST, max(FEWEST, round(SECONDS * rate_rps)))))
    return first.scale_rate(rate_rps / whole.rate_rps)


@functools.lru_cache(8)
def _requests(name: str, seed: int) -> Workload:
    return scenario_of(name).traffic.test_workload(seed)


@functools.cache
def loongserve(scenario: ElasticScenario, *, scale_up: bool = True) -> ElasticSystem:
    """As the artifact runs it on the scenario."""
    manager = scenario.manager
    return make_elastic_system(
        "loongserve",
        max_requests=manager.max_requests,
        out_of_order=manager.out_of_order,
        decoding_s=manager.decoding_s,
        scale_up=scale_up,
        one_batch=ONE_BATCH,
    )


@functools.cache
def system_of(name: str, scenario: ElasticScenario) -> ElasticSystem:
    """LoongServe, or a rival on the same GPUs, as the artifact runs it."""
    seats = scenario.manager.max_requests
    if name == "LoongServe":
        return loongserve(scenario)
    if name == "vLLM":
        return make_elastic_system("vllm", kv_tokens=KV_TOKENS)
    if name == "chunked prefill":
        return make_elastic_system("chunked_prefill", kv_tokens=KV_TOKENS, max_num_seqs=seats)
    if name == "DeepSpeed-MII":
        return make_elastic_system("deepspeed_mii", kv_tokens=KV_TOKENS)
    return make_elastic_system("distserve")


def rate_rps(system: str, setting: Setting, line: str, seed: int) -> float:
    """At which a system crosses a line."""
    scenario = scenario_of(setting.scenario)
    return crossing_rps(scenario, system_of(system, scenario), setting, line, seed)


def crossing_rps(
    scenario: ElasticScenario, system: ElasticSystem, setting: Setting, line: str, seed: int
) -> float:
    """The largest rate with the line kept. Of one system all lines are looked for at once."""
    return _crossings(scenario, system, setting, seed)[line]


@functools.cache
def _crossings(
    scenario: ElasticScenario, system: ElasticSystem, setting: Setting, seed: int
) -> dict[str, float]:
    return largest_rates(
        scenario,
        system,
        lambda rate: requests_at(scenario, seed, rate),
        setting.lines,
        setting.guess_rps,
        TOLERANCE,
    )
