"""`servegym bench`: how fast the simulator, the environments and learning are on this machine."""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Column, Table

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from servegym.experiments.benchmarks.batch_serving import measure_batch
from servegym.experiments.benchmarks.elastic import measure_elastic
from servegym.experiments.benchmarks.engines import measure_engines
from servegym.experiments.benchmarks.environments import (
    batching,
    decisions_per_wall_s,
    deferring,
    playing,
    routing_and_scheduling,
    scheduling,
    sharing,
)
from servegym.experiments.benchmarks.first_call import environment_first_call, simulator_first_call
from servegym.experiments.benchmarks.peers import measure_mocker, mocker_version
from servegym.experiments.benchmarks.policies import SCENARIO_WITH, measure_policies
from servegym.experiments.benchmarks.stream import measure_stream
from servegym.experiments.benchmarks.training import PARTS, measure_training
from servegym.experiments.configs import read_config
from servegym.experiments.provenance import provenance

ENVIRONMENT = "servegym/Routing-v0"

FIRST_STEPS = {
    "servegym/Routing-v0": "generated_8xh100",
    "servegym/Batching-v0": "generated_1xh100",
    "servegym/TwoLevel-v0": "generated_8xh100",
    "servegym/DeferredBatching-v0": "resnet50_8gpu",
    "servegym/DynamicBatching-v0": "inoue_v100",
    "servegym/ElasticSequenceParallel-v0": "mixed_8a800",
}
"""The scenario in which each environment takes its first step."""

COUNTS = (
    "requests",
    "num_envs",
    "steps",
    "passes",
    "processes",
    "stream_requests",
    "stream_replicas",
    "peer_requests",
    "policy_requests",
    "batch_requests",
    "elastic_requests",
    "updates",
)
"""Keys whose values must be at least 1."""


@dataclass
class BenchConfig:
    """Schema of `conf/bench.yaml`."""

    what: str = MISSING
    scenario: ScenarioConfig = MISSING
    replicas: list[int] = MISSING
    rate_rps_per_replica: float = MISSING
    requests: int = MISSING
    num_envs: int = MISSING
    steps: int = MISSING
    passes: int = MISSING
    processes: int = MISSING
    stream_requests: int = MISSING
    stream_replicas: int = MISSING
    peer_requests: int = MISSING
    peer_replicas: list[int] = MISSING
    policy_requests: int = MISSING
    batch_requests: int = MISSING
    elastic_requests: int = MISSING
    updates: int = MISSING
    first_call: bool = True

    def __post_init__(self) -> None:
        for key in COUNTS:
            value = getattr(self, key)
            if value != MISSING and value < 1:
                raise InputError(f"{key} = {value}: must be at least 1")
        if self.rate_rps_per_replica != MISSING and not self.rate_rps_per_replica > 0:
            raise InputError(f"rate_rps_per_replica = {self.rate_rps_per_replica}: must be positive")
        for key in ("replicas", "peer_replicas"):
            value = getattr(self, key)
            if value != MISSING and not (value and min(value) >= 1):
                raise InputError(f"{key} = {value}: must be numbers of at least 1")


def bench(config: DictConfig) -> dict[str, Any]:
    """Measures what `what` names; rates are medians over passes, per second of processor time."""
    settings = read_config(config, BenchConfig)
    if settings.what not in BENCHES:
        raise InputError(f"bench {settings.what}: must be one of {', '.join(BENCHES)}")
    scenario = Scenario(settings.scenario)
    return {
        "what": settings.what,
        "workload_source": scenario.traffic.source,
        **BENCHES[settings.what](scenario, settings),
        **provenance(),
    }


def show(answer: dict[str, Any]) -> None:
    """Prints the rates as a table."""
    console = Console(soft_wrap=True)
    TABLES[answer["what"]](answer, console)
    console.print(f"Requests: {answer['workload_source']}. {answer['cpu']}")


def _show_simulator(answer: dict[str, Any], console: Console) -> None:
    table = Table("router", "replicas", "requests/s", title="One core, results recorded")
    for replicas, rate in answer["requests_per_s"].items():
        table.add_row("round_robin", replicas, f"{rate:,.0f}")
    for replicas, rate in answer["least_outstanding_tokens_requests_per_s"].items():
        table.add_row("least_outstanding_tokens", replicas, f"{rate:,.0f}")
    console.print(table)
    table = Table("engine", "requests/s", "times slower than plain", "preemptions a request")
    for name, found in answer["engines"].items():
        rate, slower, preemptions = (
            found[key] for key in ("requests_per_s", "slower", "preemptions_per_request")
        )
        table.add_row(name, f"{rate:,.0f}", f"{slower:.2f}", f"{preemptions:.2f}")
    console.print(table)
    if "compile_s" in answer:
        console.print(
            f"First results after {answer['compile_s']:.1f} s with everything to compile, "
            f"{answer['load_s']:.1f} s from cache"
        )


def _show_env(answer: dict[str, Any], console: Console) -> None:
    table = Table("environment", "environments a call", "decisions/s", title="One core, observations written")
    for environment, rate in answer["decisions_per_s"].items():
        table.add_row(environment, str(answer["num_envs"]), f"{rate:,.0f}")
    console.print(table)
    if "first_step" in answer:
        table = Table(
            "environment", "cold, s", "cached, s", title="From the start of a process to a first step"
        )
        for environment, found in answer["first_step"].items():
            table.add_row(environment, f"{found['cold_s']:.1f}", f"{found['cached_s']:.1f}")
        console.print(table)
    if "processes_ratio" in answer:
        console.print(
            f"{answer['processes']} processes side by side: {answer['processes_ratio']:.2f} times the "
            "decisions of one"
        )


def _show_stream(answer: dict[str, Any], console: Console) -> None:
    console.print(
        f"{answer['requests']:,} requests over {answer['replicas']:,} replicas in {answer['seconds']:.1f} s "
        f"of processor time, {answer['requests_per_s']:,.0f} requests/s"
    )
    console.print(
        f"Memory: peak {answer['peak_rss_mib']:,.0f} MiB, {answer['rss_growth_mib']:,.0f} MiB of it while "
        f"the stream ran; {answer['mean_in_flight']:,.0f} requests in flight on average, "
        f"{answer['bytes_per_slot']} bytes a slot"
    )


def _show_peers(answer: dict[str, Any], console: Console) -> None:
    if not answer["dynamo_mocker"]:
        console.print("Skipped: NVIDIA's Dynamo mocker is not installed (pip install ai-dynamo-runtime)")
        return
    title = f"NVIDIA's Dynamo mocker {answer['dynamo_mocker_version']}: same trace, limits and router"
    table = Table("replicas", "", "requests/s", "mean TTFT, s", "mean latency, s", title=title)
    for replicas, found in answer["dynamo_mocker"].items():
        for name, prefix in (("servegym", ""), ("mocker", "mocker_")):
            times = (f"{found[f'{prefix}mean_{time}_s']:.3f}" for time in ("ttft", "latency"))
            table.add_row(replicas, name, f"{found[f'{prefix}requests_per_s']:,.0f}", *times)
        table.add_row(replicas, "ratio", f"{found['ratio']:,.0f}")
    console.print(table)


def _show_policies(answer: dict[str, Any], console: Console) -> None:
    for family in ("routers", "schedulers"):
        table = Table(family, "scenario", "requests/s", "target", title="One core, results recorded")
        for found in answer[family]:
            rate = found["requests_per_s"]
            told = "no trace" if rate is None else f"{rate:,.0f}"
            table.add_row(found["name"], found["scenario"], told, f"{found['target']:,.0f}")
        console.print(table)


def _show_batch(answer: dict[str, Any], console: Console) -> None:
    title = "One core; slower: the loop, against dispatching only"
    table = Table("scenario", "scheduler", "requests/s", "loop alone", "slower", "bad", title=title)
    for found in answer["schedulers"]:
        rates = (f"{found[key]:,.0f}" for key in ("requests_per_s", "loop_requests_per_s"))
        table.add_row(
            found["scenario"],
            found["scheduler"],
            *rates,
            f"{found['slower']:.2f}",
            f"{found['bad_share']:.1%}",
        )
    console.print(table)


def _show_elastic(answer: dict[str, Any], console: Console) -> None:
    console.print(
        f"{answer['requests']:,} requests of {answer['scenario']} at {answer['rate_rps']:g} requests/s under "
        f"LoongServe's manager in {answer['seconds']:.1f} s of processor time, "
        f"{answer['requests_per_s']:,.0f} requests/s"
    )
    console.print(
        f"A decision with {answer['waiting']:,} requests waiting and {answer['instances']} idle instances: "
        f"{answer['decision_ms']:.2f} ms"
    )


def _show_training(answer: dict[str, Any], console: Console) -> None:
    title = f"PPO on {answer['scenario']}: one core, and where its time goes"
    table = Table(Column("PPO of", no_wrap=True), "envs", "decisions/s", *PARTS, "rest", title=title)
    for found in answer["learners"]:
        shares = (f"{found[part]:.0%}" for part in (*PARTS, "rest"))
        table.add_row(found["name"], str(found["num_envs"]), f"{found['decisions_per_s']:,.0f}", *shares)
    console.print(table)


def bench_simulator(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Requests per second by number of replicas, at the same load for each replica."""
    round_robin = {
        str(num): _requests_per_s(scenario, settings, "round_robin", num)
        for num in tracked(settings.replicas, "round_robin", "fleets")
    }
    looking = {
        str(num): _requests_per_s(scenario, settings, "least_outstanding_tokens", num)
        for num in settings.replicas
        if num == scenario.num_replicas
    }
    num = scenario.num_replicas
    lengths = scenario.traffic.test_workload(0)
    workload = repeated(lengths, settings.requests, settings.rate_rps_per_replica * num)
    return {
        "requests_per_s": round_robin,
        "engines": measure_engines(scenario, workload, num, settings.passes),
        "least_outstanding_tokens_requests_per_s": looking,
        "requests": settings.requests,
        "rate_rps_per_replica": settings.rate_rps_per_replica,
        **(_first_results() if settings.first_call else {}),
    }


def _first_results() -> dict[str, float]:
    found = simulator_first_call()
    return {"compile_s": found.cold_s, "load_s": found.cached_s}


def bench_env(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Decisions per second of the vector environments; routing also in several processes side by side."""
    plays = {ENVIRONMENT: playing(scenario, settings.num_envs, settings.steps)}
    if scenario.is_plain:  # the environments that schedule take no other
        plays["servegym/Batching-v0"] = scheduling(scenario, settings.num_envs, settings.steps)
        plays["servegym/TwoLevel-v0"] = routing_and_scheduling(scenario, settings.num_envs, settings.steps)
        plays["servegym/DeferredBatching-v0"] = deferring(settings.num_envs, settings.steps)
        plays["servegym/DynamicBatching-v0"] = batching(settings.num_envs, settings.steps)
        plays["servegym/ElasticSequenceParallel-v0"] = sharing(settings.num_envs, settings.steps)
    decisions = settings.steps * settings.num_envs
    answer: dict[str, Any] = {
        "decisions_per_s": {
            name: decisions / _median_s(play, settings.passes)
            for name, play in tracked(plays.items(), "Decisions/s", "environments")
        },
        "num_envs": settings.num_envs,
        "replicas": scenario.num_replicas,
    }
    if settings.first_call:
        answer["first_step"] = {
            env_id: environment_first_call(env_id, name)._asdict()
            for env_id, name in tracked(FIRST_STEPS.items(), "First step", "environments")
        }
    if settings.processes == 1:
        return answer
    one, several = (
        decisions_per_wall_s(settings.scenario, settings.num_envs, settings.steps, settings.passes, processes)
        for processes in (1, settings.processes)
    )
    return {**answer, "processes": settings.processes, "processes_ratio": several / one}


def bench_stream(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """A stream through a large fleet: rate and memory."""
    return measure_stream(
        scenario, settings.stream_requests, settings.stream_replicas, settings.rate_rps_per_replica
    )


def bench_peers(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Another simulator on the same requests; the load of each replica is the same for any number."""
    lengths = scenario.traffic.test_workload(0)
    found = {
        str(num): measure_mocker(
            scenario,
            repeated(lengths, settings.peer_requests, settings.rate_rps_per_replica * num),
            num,
            settings.passes,
        )
        for num in tracked(settings.peer_replicas, "Dynamo mocker", "fleets")
        if mocker_version()
    }
    return {"dynamo_mocker": found, "dynamo_mocker_version": mocker_version()}


def bench_policies(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Requests per second under every router and every scheduler."""
    lengths = scenario.traffic.test_workload(0)
    rate_rps = settings.rate_rps_per_replica * scenario.num_replicas
    workload = repeated(lengths, settings.policy_requests, rate_rps)
    others = {}
    for need, (name, overrides) in SCENARIO_WITH.items():
        with suppress(InputError):  # its trace is not here, and no generator stands in for it
            others[need] = load_scenario(name, overrides)
    found = measure_policies(scenario, others, workload, settings.passes)
    return {**found, "requests": settings.policy_requests}


def bench_batch(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Requests per second under every scheduler of batch serving, in scenarios of its own."""
    return {
        "schedulers": measure_batch(settings.batch_requests, settings.passes),
        "requests": settings.batch_requests,
        "workload_source": "poisson arrivals",
    }


def bench_elastic(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Requests per second of an elastic fleet under LoongServe's manager, in a scenario of its own."""
    return {
        **measure_elastic(settings.elastic_requests, settings.passes),
        "workload_source": "poisson arrivals",
    }


def bench_training(scenario: Scenario, settings: BenchConfig) -> dict[str, Any]:
    """Decisions per second that PPO learns from, beside Stable-Baselines3's own."""
    return {
        "learners": measure_training(scenario, settings.num_envs, settings.updates, settings.passes),
        "scenario": scenario.name,
    }


BENCHES: dict[str, Callable[[Scenario, BenchConfig], dict[str, Any]]] = {
    "simulator": bench_simulator,
    "env": bench_env,
    "stream": bench_stream,
    "peers": bench_peers,
    "policies": bench_policies,
    "batch": bench_batch,
    "elastic": bench_elastic,
    "training": bench_training,
}
"""What can be measured."""

TABLES: dict[str, Callable[[dict[str, Any], Console], None]] = {
    "simulator": _show_simulator,
    "env": _show_env,
    "stream": _show_stream,
    "peers": _show_peers,
    "policies": _show_policies,
    "batch": _show_batch,
    "elastic": _show_elastic,
    "training": _show_training,
}
"""How it is shown."""


def repeated(workload: Workload, num_requests: int, rate_rps: float) -> Workload:
    """A workload's requests over and over until there are `num_requests`, at `rate_rps` on average."""
    times = -(-num_requests // workload.num_requests)
    period_s = workload.duration_s * (1 + 1 / workload.num_requests)
    offset_s = np.repeat(np.arange(times) * period_s, workload.num_requests)
    arrival_s = (np.tile(workload.arrival_s - workload.arrival_s[0], times) + offset_s)[:num_requests]
    return Workload(
        f"{workload.name} repeated",
        arrival_s * (num_requests / rate_rps / arrival_s[-1]),
        np.tile(workload.prompt_tokens, times)[:num_requests],
        np.tile(workload.output_tokens, times)[:num_requests],
    )


def _requests_per_s(scenario: Scenario, settings: BenchConfig, router_name: str, num_replicas: int) -> float:
    rate_rps = settings.rate_rps_per_replica * num_replicas
    workload = repeated(scenario.traffic.test_workload(0), settings.requests, rate_rps)
    router = make_router(router_name)

    def play() -> None:
        simulate(workload, router, num_replicas=num_replicas, engine=scenario.engine, cost=scenario.cost)

    play()  # compiles, and touches the memory
    return settings.requests / _median_s(play, settings.passes)


def _median_s(play: Callable[[], None], passes: int) -> float:
    """Median seconds of processor time of one pass."""
    seconds = []
    for _ in range(passes):
        started = time.process_time()
        play()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)
