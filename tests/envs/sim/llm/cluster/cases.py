"""Random fleets, workloads and decisions, for the fast simulator and the reference alike."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from servegym.envs.sim.llm.cluster.plan import ROLES, Failure, FleetPlan, Member, Migration
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.ranking import Ranking
from servegym.envs.sim.llm.rebalancer import BE_MIXED, KEEP, START, STAY, STOP, Rebalancer
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING
from servegym.envs.workloads import Workload
from tests.envs.sim.llm.test_against_reference import (
    SCHEDULERS,
    dyadic_cost,
    random_cost,
    random_prefixes,
)
from tests.reference import llm as reference
from tests.reference import settings as reference_settings
from tests.reference.rebalancing import by_replicas

LAST_STOP = 40  # turn up to which a rule that draws stops replicas
TICK_S = 0.25  # all times are multiples of it where events are to coincide


@dataclass
class FleetCase:
    """A workload, a plan, and numbers out of which the router's and the rebalancer's decisions are made."""

    workload: Workload
    plan: FleetPlan
    draws: list[float]
    move_seed: int
    order_shares: list[float]  # of KEEP, START and STOP
    ranking: Ranking | None = None

    def choose(self):
        """A router that takes one of the available replicas by the next number."""
        draws = iter(self.draws)

        def choose(replicas, *_):
            available = np.flatnonzero(replicas[:, 0])
            return int(available[int(next(draws) * len(available))])

        return choose

    def choose_moves(self, seen: list[np.ndarray]):
        """A rebalancer that draws replicas, mostly such as make sense, and notes what it sees."""
        rng = np.random.default_rng(self.move_seed)

        def choose_moves(rows: np.ndarray) -> tuple[list[tuple[int, int]], list[int]]:
            seen.append(rows.copy())
            everybody = range(len(rows))
            busy = np.flatnonzero(rows[:, RUNNING]).tolist() or everybody
            ready = np.flatnonzero(rows[:, AVAILABLE]).tolist() or everybody
            moves = [
                (
                    int(rng.choice(busy if rng.random() < 0.9 else everybody)),
                    int(rng.choice(ready if rng.random() < 0.9 else everybody)),
                )
                for _ in range(rng.integers(len(rows) + 1))
            ]
            orders = rng.choice([KEEP, START, STOP], len(rows), p=self.order_shares)
            if self.plan.role_switch_s is not None:
                roles = BE_MIXED + rng.integers(0, len(ROLES), len(rows))
                orders = np.where(rng.random(len(rows)) < 0.3, roles, orders)
            if len(seen) > LAST_STOP:  # else some might wait for ever
                orders[orders == STOP] = START
            return moves, orders.tolist()

        return choose_moves

    def fast_plan(self, seen: list[np.ndarray]) -> FleetPlan:
        """The plan, with this rebalancer."""
        if self.plan.migration is None:
            return self.plan
        choose_moves = self.choose_moves(seen)

        def choose(rows, parameters, memory, random_state, moves, orders):
            chosen, orders[:] = choose_moves(rows)
            moves[: len(chosen)] = np.reshape(chosen, (-1, 2))
            return len(chosen)

        migration = replace(self.plan.migration, rule=Rebalancer("drawn", choose))
        return replace(self.plan, migration=migration)

    def reference_plan(self, seen: list[np.ndarray]) -> dict[str, Any]:
        """The arguments of the reference's `simulate_fleet`."""
        plan = {key: getattr(self.plan, key) for key in FleetPlan.__dataclass_fields__}
        if migration := plan.pop("migration"):
            plan |= {
                "rebalance": by_replicas(self.choose_moves(seen)),
                "rebalance_s": migration.every_s,
                "last_stage_blocks": migration.last_stage_blocks,
                "max_stages": migration.max_stages,
            }
        plan["replicas"] = [
            reference_settings.ReplicaSpec(
                **{key: getattr(member, key) for key in Member.__dataclass_fields__}
                | {"engine": member.engine and reference.Engine(**asdict(member.engine))}
            )
            for member in self.plan.replicas
        ]
        plan["failures"] = [
            reference_settings.Failure(f.replica, f.time_s, f.until_s) for f in plan["failures"]
        ]
        return plan


def random_fleet(seed: int, features: frozenset[str]) -> FleetCase:
    """A fleet with any of the features, all in play at a time; events that coincide or none that do."""
    rng = np.random.default_rng(seed)
    exact = bool(rng.integers(2))
    split = "roles" in features and rng.random() < 0.7
    count = int(rng.integers(1, 25))
    columns: dict[str, Any] = {}
    prompts = rng.integers(1, rng.choice([3, 20, 60]), count)
    outputs = rng.integers(1, rng.choice([2, 12, 50]), count)
    if "sessions" in features and rng.random() < 0.6:
        columns |= _random_sessions(rng, prompts, outputs, exact)
    block_size = int(rng.choice([1, 2, 4, 16]))
    caching = rng.random() < 0.4
    members = []
    migrates = "migration" in features
    for _ in range(int(rng.integers(1, 5))):
        scheduler = "vllm_v1" if split or migrates else str(rng.choice(SCHEDULERS))
        engine = _random_engine(rng, prompts, outputs, scheduler, caching, block_size)
        cost = dyadic_cost(engine) if exact else random_cost(rng, engine)
        link = {
            "link_latency_s": TICK_S * int(rng.integers(0, 3)) if exact else float(rng.random()),
            "link_bytes_per_s": 4.0,
            "kv_bytes_per_block": float(rng.integers(0, 3)),
        }
        members += [Member(engine, cost, **link)] * int(rng.integers(1, 3))
    if split:
        roles = [str(rng.choice(["mixed", "prefill", "decode"])) for _ in members]
        if set(roles) == {"prefill"} or set(roles) == {"decode"}:
            roles = ["mixed"] * len(members)
        if "prefill" not in roles:
            roles = [role.replace("decode", "mixed") for role in roles]
        members = [replace(member, role=role) for member, role in zip(members, roles, strict=True)]
    if "roles" in features and rng.random() < 0.5:
        columns["image_tokens"] = np.minimum(prompts, rng.integers(0, 4, count))
        if rng.random() < 0.7:
            members += [Member(role="encode")] * int(rng.integers(1, 3))
    order = rng.permutation(len(members))
    members = [members[i] for i in order]

    def times(low: int, high: int, size: int) -> np.ndarray:
        ticks = rng.integers(low, high, size)
        return ticks * TICK_S if exact else (ticks + rng.random(size)) * TICK_S

    gaps = times(0, 12, count)
    horizon = int(np.sum(gaps) / TICK_S) + 40
    if rng.random() < 0.5:
        columns["predicted_output_tokens"] = rng.integers(1, 40, count)
        columns["prediction_refinement"] = rng.choice([None, None, 0.3, 1.0])
    if rng.random() < 0.5:
        columns["priority"] = rng.integers(0, 3, count)
    if "cancel" in features and rng.random() < 0.6:
        patience = times(1, 80, count)
        columns["cancel_after_s"] = np.where(rng.random(count) < 0.5, patience, np.inf)
    if caching:
        columns |= random_prefixes(rng, prompts, block_size)
    plan: dict[str, Any] = {}
    if "dispatch" in features and rng.random() < 0.5:
        plan["dispatch_latency_s"] = float(times(1, 4, 1)[0])
    if "failures" in features and rng.random() < 0.7:
        plan["failures"] = []
        for _ in range(int(rng.integers(1, 4))):
            start_s, lasting_s = float(times(0, horizon, 1)[0]), float(times(1, 60, 1)[0])
            lasting_s = np.inf if rng.random() < 0.1 and not split else lasting_s
            plan["failures"].append(Failure(int(rng.integers(len(members))), start_s, start_s + lasting_s))
        plan["on_failure"] = str(rng.choice(["reroute", "reroute", "lost"]))
    if "scaling" in features and rng.random() < 0.7:
        size = int(rng.integers(1, 5))
        plan["scaling"] = [
            (float(time_s), int(rng.integers(0, len(members) + 1)))
            for time_s in np.sort(times(0, horizon, size))
        ]
        plan["startup_s"] = float(times(0, 8, 1)[0])
    controlled = "control" in features and rng.random() < 0.8
    if (split and "scaling" in plan) or controlled:  # KV that waits for ever to be sent keeps others waiting
        plan["scaling"] = [*plan.get("scaling", ()), ((horizon + 1) * TICK_S, len(members))]
    if controlled and rng.random() < 0.7:
        plan["role_switch_s"] = float(times(0, 8, 1)[0])
    if "stale" in features and rng.random() < 0.6:
        plan["state_delay_s"] = float(times(1, 12, 1)[0])
    if "image_tokens" in columns:
        plan |= {"encode_overhead_s": 0.5, "encode_s_per_token": 0.25 if exact else 0.3}
    if migrates:
        plan["migration"] = Migration(
            STAY, float(times(1, 12, 1)[0]), int(rng.choice([0, 1, 16])), int(rng.integers(0, 4))
        )
    workload = Workload("random", np.cumsum(gaps), prompts, outputs, **columns)
    draws = list(rng.random(20 * count + 100))
    return FleetCase(
        workload, FleetPlan(members, **plan), draws, seed, [0.7, 0.2, 0.1] if controlled else [1, 0, 0]
    )


def _random_sessions(rng: np.random.Generator, prompts: np.ndarray, outputs: np.ndarray, exact: bool) -> dict:
    """Chains of requests whose prompts begin with what was said before; lengthens `prompts` in place."""
    count = len(prompts)
    parent = np.full(count, -1)
    last_of_session: list[int] = []
    for i in range(count):
        if last_of_session and rng.random() < 0.5:
            session = int(rng.integers(len(last_of_session)))
            parent[i] = last_of_session[session]
            history = prompts[parent[i]] + outputs[parent[i]]
            prompts[i] = history + rng.integers(0, 10)
            last_of_session[session] = i
        else:
            last_of_session.append(i)
    think = rng.integers(0, 12, count) * TICK_S if exact else rng.exponential(2.0, count)
    return {"parent": parent, "think_s": think}


def _random_engine(
    rng: np.random.Generator,
    prompts: np.ndarray,
    outputs: np.ndarray,
    scheduler: str,
    caching: bool,
    block_size: int,
) -> Engine:
    """An engine that can serve the longest request, with few blocks more or many."""
    max_num_seqs = int(rng.integers(1, 9))
    longest = int(np.max(prompts + outputs))
    most_blocks = -(-longest // block_size)
    blocks = most_blocks + int(rng.integers(0, max(2, 2 * most_blocks)))
    budget = int(max_num_seqs + rng.integers(0, 40))
    rules: dict[str, Any] = {"scheduler": scheduler}
    if scheduler in ("vllm_v0", "orca", "lightllm"):
        budget = longest + max_num_seqs + int(rng.integers(0, 60))
    if scheduler == "vllm_v1":
        rules |= {
            "order": str(rng.choice(["fcfs", "priority"])),
            "reserve_full_prompt": bool(rng.integers(2)),
            "long_prefill_token_threshold": int(rng.choice([0, 0, rng.integers(1, 20)])),
        }
    if scheduler in ("vllm_v1", "sglang"):
        rules["prefix_caching"] = caching
    if scheduler in ("sarathi", "vllm_v0"):
        rules["watermark"] = float(rng.choice([0.0, 0.01, 0.1]))
        blocks += 2 + blocks // 5
    if scheduler == "vllm_v0" and rng.random() < 0.5:
        swap = {"swap_blocks": int(rng.integers(1, 2 * most_blocks)), "swap_s_per_block": 0.25}
        rules |= {"preemption": "swap", **swap}
    if scheduler == "orca":
        rules["max_model_len"] = longest + int(rng.integers(0, 10))
        blocks += 10 + 10 // block_size
    if scheduler == "lightllm":
        rules["decodes_between_prefills"] = int(rng.integers(1, 12))
        blocks += max_num_seqs + 1 + 2 // block_size
    return Engine(budget, max_num_seqs, blocks, block_size, **rules)
