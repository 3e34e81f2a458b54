"""Dynamic batching as a semi-Markov decision process: what the optimum costs, and what simpler rules do.

The cost is the mean response in seconds plus the power in watts at 1 ms a watt, in three presets
(envs/dynamic_batching). Times, energies and rates are not all the paper's, whose own figures could not be
checked, so the claims are what it says of the method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from servegym.agents.smdp import (
    BatchTablePolicy,
    Solution,
    cheapest,
    control_limit,
    evaluate,
    greedy,
    simulate_batching,
    solve,
    static,
)
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario, load_dynamic_batching
from servegym.experiments.claims.claim import Claim, Paper, at_most

PRESETS = ("inoue_v100", "inoue_p4", "googlenet_p4")
SEEDS = range(5)
EPISODES, REQUESTS = 64, 20_000


@cache
def scenario(preset: str) -> DynamicBatchingScenario:
    """Long episodes, so that how they begin and end counts little."""
    return replace(load_dynamic_batching(preset), requests=REQUESTS)


@cache
def optimum(preset: str) -> Solution:
    """By the solver."""
    return solve(scenario(preset))


def measure_cost() -> Mapping[str, Sequence[float]]:
    """How far simulations of the optimal policy are from what the solver says it costs."""
    found = {}
    for preset in PRESETS:
        policy = BatchTablePolicy("optimal", optimum(preset).sizes, scenario(preset))
        costs = [
            simulate_batching(policy, scenario(preset), EPISODES, seed * EPISODES).cost for seed in SEEDS
        ]
        found[_cost_name(preset)] = [abs(cost / optimum(preset).cost - 1) for cost in costs]
    return found


def _cost_name(preset: str) -> str:
    return f"distance of the simulated cost from the solver's, {preset}"


FAMILIES = {"batches of one size": static, "waiting for some, then all": control_limit}
RULES = ("work-conserving", *FAMILIES)


def best_of(rule: str, preset: str) -> float:
    """The exact cost under a rule, with the size or limit that suits it best."""
    of_preset = scenario(preset)
    if rule not in FAMILIES:
        return evaluate(of_preset, greedy(of_preset)).cost
    best = cheapest(of_preset, FAMILIES[rule])
    assert best is not None  # no preset is that busy
    return evaluate(of_preset, best[1]).cost


def measure_rules() -> Mapping[str, Sequence[float]]:
    """The optimal cost over that of simpler rules, to six digits; nothing is simulated."""
    return {
        _rule_name(rule, preset): [round(optimum(preset).exact.cost / best_of(rule, preset), 6)]
        for rule in RULES
        for preset in PRESETS
    }


def _rule_name(rule: str, preset: str) -> str:
    return f"optimal cost / that of {rule}, {preset}"


PAPER = Paper(
    system="SMDP dynamic batching",
    source="Xu et al., SMDP-Based Dynamic Batching for Efficient Inference on GPU-Based Platforms, "
    "arXiv 2301.12865",
    claims=(
        Claim(
            name="cost",
            statement="The policy found by relative value iteration costs what the solver says.",
            workload=f"The presets {', '.join(PRESETS)}: {EPISODES} episodes of {REQUESTS:,} Poisson "
            f"requests, {len(SEEDS)} seeds.",
            figures=[at_most(_cost_name(preset), 0.005) for preset in PRESETS],
            measure=measure_cost,
        ),
        Claim(
            name="rules",
            statement="No work-conserving or static policy, and none that waits for a number of requests, "
            "costs less.",
            workload=f"The presets {', '.join(PRESETS)}; exact costs, each rule with its best batch size or "
            "number.",
            figures=[at_most(_rule_name(rule, preset), 1.0) for rule in RULES for preset in PRESETS],
            measure=measure_rules,
        ),
    ),
)
