"""Emulated replicas do what simulated ones do, at the same times."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.setup import ReplicaSpec
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.sim.llm.view import REPLICA_COLUMNS, REPLICA_FEATURES
from servegym.envs.workloads import Workload
from servegym.experiments.emulation.fleet import Arrival, CannotServe, EmulatedFleet, FleetIsFull
from servegym.experiments.emulation.live_engine import LiveEngine
from servegym.experiments.emulation.prompts import block_keys
from servegym.experiments.load_generator.synthetic_prompts import SyntheticPrompts
from tests.experiments.emulation.fake_clock import FakeClock

SMALL = ("scenario.fleet.replicas=2", "scenario.workload.rate_rps=60", "scenario.workload.test_s=40")


@dataclass
class Heard:
    """Notes when tokens came."""

    times_s: list[float] = field(default_factory=list)

    def token(self, number: int, time_s: float) -> None:
        assert number == len(self.times_s) + 1
        self.times_s.append(time_s)


class Emulation:
    """A workload on emulated replicas, by a clock that is told when to go on."""

    def __init__(self, scenario: Scenario, workload: Workload, max_requests: int = 1000) -> None:
        self.clock = FakeClock()
        self.fleet = EmulatedFleet(
            [ReplicaSpec(scenario.engine, scenario.cost)] * scenario.num_replicas,
            max_requests=max_requests,
            prediction_refinement=workload.prediction_refinement,
        )
        self.engines = [LiveEngine(self.fleet, i, self.clock) for i in range(scenario.num_replicas)]
        self.heard = [Heard() for _ in range(workload.num_requests)]
        self._workload = workload
        self._block_size = scenario.engine.block_size
        self._prompts = SyntheticPrompts(workload, as_text=True, salt="")

    def run(
        self, replicas: np.ndarray, before_each: Callable[[int], None] = lambda number: None
    ) -> list[Heard]:
        """Serves request i on `replicas[i]`; `before_each` is called when the clock stands at an arrival."""
        workload = self._workload
        for i in range(workload.num_requests):
            self.clock.run_until(workload.arrival_s[i])
            before_each(i)
            engine = self.engines[replicas[i]]
            slot = engine.submit(self._arrival(i), self.heard[i])
            if workload.cancel_after_s is not None and np.isfinite(workload.cancel_after_s[i]):
                self._cancel_later(engine, slot, i)
        self.clock.run_out()
        assert self.fleet.num_in_flight == 0
        return self.heard

    def _arrival(self, i: int) -> Arrival:
        workload = self._workload
        predicted, priority = workload.predicted_output_tokens, workload.priority
        return Arrival(
            int(workload.prompt_tokens[i]),
            int(workload.output_tokens[i]),
            0 if predicted is None else int(predicted[i]),
            0 if priority is None else int(priority[i]),
            block_keys(self._prompts[i], self._block_size),
        )

    def _cancel_later(self, engine: LiveEngine, slot: int, i: int) -> None:
        def cancel() -> None:
            if len(self.heard[i].times_s) < self._workload.output_tokens[i]:
                engine.cancel(slot)

        self.clock.call_at(self._workload.arrival_s[i] + self._workload.cancel_after_s[i], cancel)


def assert_same(heard: list[Heard], results: Results) -> None:
    """Equal to the bit."""
    assert [len(each.times_s) for each in heard] == results.output_tokens.tolist()
    assert [each.times_s[0] for each in heard] == results.first_token_s.tolist()
    assert [each.times_s[-1] for each in heard] == results.finish_s.tolist()


@pytest.mark.parametrize(
    ("overrides", "preempts"),
    [
        ((), False),
        (("scenario.engine.num_kv_blocks=400",), True),
        (("scenario.engine.scheduler=sarathi", "scenario.engine.max_num_batched_tokens=512"), False),
        (
            (
                "scenario.engine.order=priority",
                "scenario.engine.num_kv_blocks=400",
                "scenario.workload.clients.priority_shares=[0.5,0.5]",
            ),
            True,
        ),
    ],
    ids=["plain", "little memory", "sarathi", "priorities"],
)
@pytest.mark.compiled
def test_times_are_those_of_the_simulator(overrides: tuple[str, ...], preempts: bool) -> None:
    scenario = load_scenario("generated_8xh100", (*SMALL, *overrides))
    workload = scenario.traffic.test_workload(0)
    results = scenario.simulate(workload, make_router("jsq"), log=True)
    assert bool(results.preemptions.sum()) == preempts
    emulation = Emulation(scenario, workload)
    assert_same(emulation.run(results.replica), results)
    counted = [counts.preemptions for counts in emulation.fleet.counts]
    assert counted == np.bincount(results.replica, results.preemptions, 2).tolist()
    skipping = scenario.simulate(workload, make_router("jsq"))  # a closed form for many decodes: it rounds
    np.testing.assert_allclose([each.times_s[-1] for each in emulation.heard], skipping.finish_s, rtol=1e-9)


@pytest.mark.compiled
def test_slots_are_used_again() -> None:
    scenario = load_scenario("generated_8xh100", (*SMALL, "scenario.workload.rate_rps=10"))
    workload = scenario.traffic.test_workload(0)
    results = scenario.simulate(workload, make_router("round_robin"), log=True)
    started, ended = np.sort(results.arrival_s), np.sort(results.finish_s)
    most = max(i + 1 - np.searchsorted(ended, now_s, "right") for i, now_s in enumerate(started))
    assert most < workload.num_requests / 2
    assert_same(Emulation(scenario, workload, max_requests=int(most)).run(results.replica), results)
    with pytest.raises(FleetIsFull):
        Emulation(scenario, workload, max_requests=int(most) - 1).run(results.replica)


def with_shared_prefixes(workload: Workload, block_tokens: int) -> Workload:
    """Every prompt begins with some of the blocks of one of three documents."""
    rng = np.random.default_rng(1)
    blocks = np.minimum(rng.integers(0, 6, workload.num_requests), workload.prompt_tokens // block_tokens)
    documents = rng.integers(0, 3, workload.num_requests)
    ids = [document * 100 + i for document, n in zip(documents, blocks, strict=True) for i in range(n)]
    return replace(
        workload,
        prefix_ids=np.array(ids, np.int64),
        prefix_offsets=np.concatenate([[0], np.cumsum(blocks)]),
        prefix_block_tokens=block_tokens,
    )


@pytest.mark.compiled
@pytest.mark.parametrize(("num_kv_blocks", "rate_rps"), [(20000, 5), (500, 20)], ids=["roomy", "full"])
def test_prefix_cache_is_that_of_the_simulator(num_kv_blocks: int, rate_rps: float) -> None:
    overrides = (
        "engine@scenario.engine=vllm_v1_prefix_caching",
        f"scenario.engine.num_kv_blocks={num_kv_blocks}",
        f"scenario.workload.rate_rps={rate_rps}",
    )
    scenario = load_scenario("generated_8xh100", (*SMALL, *overrides))
    workload = with_shared_prefixes(scenario.traffic.test_workload(0), 64)
    results = scenario.simulate(workload, make_router("round_robin"), log=True)
    emulation = Emulation(scenario, workload, max_requests=workload.num_requests)
    assert_same(emulation.run(results.replica), results)
    hits = sum(counts.prefix_hits for counts in emulation.fleet.counts)
    assert hits > 0.08 * workload.prompt_tokens.sum()
    assert sum(counts.prefix_queries for counts in emulation.fleet.counts) == workload.prompt_tokens.sum()
    assert bool(results.preemptions.sum()) == (num_kv_blocks == 500)
    if num_kv_blocks > 500:  # hits after a preemption are not counted
        assert hits == results.hit_tokens.sum()
        keys = emulation.fleet.fleet.cache.block_keys
        assert len(keys) < workload.prompt_tokens.sum() // 32, "memory is for those in flight only"


@pytest.mark.compiled
def test_those_who_leave_do_so_as_in_the_simulator() -> None:
    clients = "scenario.workload.clients"
    overrides = (
        f"{clients}.cancel_share=0.5",
        f"{clients}.mean_patience_s=1",
        "scenario.engine.num_kv_blocks=400",
    )
    scenario = load_scenario("generated_8xh100", (*SMALL, *overrides))
    workload = scenario.traffic.test_workload(0)
    results = scenario.simulate(workload, make_router("round_robin"), log=True)
    assert (~results.finished).sum() > 20
    heard = Emulation(scenario, workload).run(results.replica)
    finish_s = [
        each.times_s[-1] if len(each.times_s) == tokens else np.nan
        for each, tokens in zip(heard, results.output_tokens, strict=True)
    ]
    np.testing.assert_array_equal(finish_s, results.finish_s)


@pytest.mark.compiled
def test_a_router_sees_the_same() -> None:
    overrides = ("scenario.workload.prediction_error=0.5", "scenario.workload.prediction_refinement=0.7")
    scenario = load_scenario("generated_8xh100", (*SMALL, *overrides))
    workload = scenario.traffic.test_workload(0)
    seen: list[np.ndarray] = []

    def choose(replicas: np.ndarray, request: np.ndarray, *_: np.ndarray) -> int:
        seen.append(replicas[:, :REPLICA_FEATURES].copy())
        return len(seen) % 2

    results = scenario.simulate(workload, Router("looks", choose), log=True)
    emulation = Emulation(scenario, workload)
    rows: list[list[dict[str, float]]] = []
    emulation.run(results.replica, lambda _: rows.append([engine.row() for engine in emulation.engines]))
    names = [name for name, _ in REPLICA_COLUMNS]
    observed = [[[row[name] for name in names] for row in each] for each in rows]
    np.testing.assert_array_equal(observed, seen[-workload.num_requests :])
    varies = dict(zip(names, np.ptp(np.array(observed), axis=(0, 1)) > 0, strict=True))
    assert all(varies[name] for name in names[1:11] if name != "kv_total_blocks")


@pytest.mark.compiled
def test_a_pause_puts_off_what_is_to_come() -> None:
    scenario = load_scenario("generated_8xh100", SMALL)

    def times_s(pause: bool) -> list[float]:
        clock, heard = FakeClock(), Heard()
        fleet = EmulatedFleet([ReplicaSpec(scenario.engine, scenario.cost)])
        engine = LiveEngine(fleet, 0, clock)
        engine.submit(Arrival(100, 50), heard)
        clock.run_until(0.1)
        if pause:
            engine.pause()
            engine.pause()
            clock.run_until(5.0)
            assert engine.now_s() == 0.1
            before = engine.row()
            late = Heard()
            engine.submit(Arrival(10, 1), late)
            assert engine.row()["waiting"] == before["waiting"] + 1
            engine.resume()
            clock.run_out()
            assert len(late.times_s) == 1
        clock.run_out()
        return heard.times_s

    undisturbed, paused = times_s(False), times_s(True)
    assert len(paused) == len(undisturbed) == 50
    before = [time_s for time_s in undisturbed if time_s <= 0.1]
    assert before and paused[: len(before)] == before
    assert paused[-1] == pytest.approx(undisturbed[-1], rel=0.1), "engine time does not go on in a pause"


@pytest.mark.compiled
def test_what_never_fits_is_refused() -> None:
    scenario = load_scenario("generated_8xh100", (*SMALL, "scenario.engine.num_kv_blocks=400"))
    engine = LiveEngine(EmulatedFleet([ReplicaSpec(scenario.engine, scenario.cost)]), 0, FakeClock())
    with pytest.raises(CannotServe, match="401 KV blocks"):
        engine.submit(Arrival(6400, 2), Heard())
    assert engine.row()["waiting"] == 0
    engine.submit(Arrival(6400, 1), Heard())
    assert engine.row()["waiting"] == 1
