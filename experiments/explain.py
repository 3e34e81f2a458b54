"""`servegym explain`: what a trained policy looks at, whom it agrees with, what it does in a busy minute."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.suites import Suite
from servegym.experiments.configs import read_config
from servegym.experiments.evaluation.contenders import kind_of
from servegym.experiments.explanation.agreement import Agreement, agreements, choices_of, same_choice
from servegym.experiments.explanation.decisions import (
    Decisions,
    Scored,
    routing_decisions,
    scheduling_decisions,
)
from servegym.experiments.explanation.engine_picture import draw_engine
from servegym.experiments.explanation.orders import order_agreements
from servegym.experiments.explanation.page import write_page
from servegym.experiments.explanation.picture import busiest_decisions, busiest_minute, draw
from servegym.experiments.explanation.sensitivity import Sensitivity, margin_gradients, sensitivities
from servegym.experiments.json_answer import to_json

ANSWER_FILE, PAGE_FILE, PICTURE_FILE = "explanation.json", "explanation.md", "decisions.png"
SENSITIVITY_FILE, AGREEMENT_FILE = "sensitivity.csv", "agreement.csv"
FILES = (ANSWER_FILE, PAGE_FILE, PICTURE_FILE, SENSITIVITY_FILE, AGREEMENT_FILE)

SAMPLE = 4000
"""Decisions, of those at which there was a choice, that the sensitivities are from."""


@dataclass
class ExplainConfig:
    """Schema of `conf/explain.yaml`."""

    policy: str = MISSING
    scenario: Any = None
    suite: Suite | None = None
    entry: str | None = None
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed = {self.seed}: must be at least 0")
        if (self.scenario is None) == (self.suite is None):
            raise InputError("scenario: must be given, or else suite and entry")
        if (self.entry is None) != (self.suite is None):
            raise InputError("entry: must be given with suite, and only with it")
        if self.scenario is not None and not isinstance(self.scenario, ScenarioConfig):
            raise InputError(f"scenario = {self.scenario.name}: must be of LLM fleets")

    def build(self) -> Scenario:
        """What the policy is played on."""
        if self.suite is None:
            return Scenario(self.scenario)
        assert self.entry is not None
        return self.suite.build(self.entry)


class _Policy(NamedTuple):
    """A trained policy, the network that it is (None: not at hand), and what it decides."""

    policy: Scored
    network: Any
    level: str | None


def explain(config: DictConfig) -> dict[str, Any]:
    """Plays the test workload of a seed with a router or scheduler; what its decisions say goes to `out`.

    Returns policy, level, scenario, seed, decisions, of each feature its sensitivity, of each rule its
    agreement, `left_out` (why a router could not be asked) and out. InputError for a policy that is neither.
    """
    settings = read_config(config, ExplainConfig)
    policy, network, level = _load(settings.policy)
    scenario = settings.build()
    out = Path(settings.out or f"runs/explain/{scenario.name}")
    check_replaceable(out, FILES)
    workloads = [scenario.traffic.test_workload(settings.seed)]
    if level == "router":
        decisions = routing_decisions(policy, scenario, workloads)
        agreed, left_out = agreements(decisions, scenario, settings.seed)
    else:
        decisions = scheduling_decisions(policy, scenario, workloads)
        agreed, left_out = order_agreements(decisions), {}
    found = _sensitivities(policy, network, decisions, settings.seed)
    answer = {
        "policy": settings.policy,
        "level": level,
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "seed": settings.seed,
        "decisions": len(decisions.actions),
        "sensitivities": [each._asdict() for each in found],
        "agreements": [each._asdict() for each in agreed],
        "left_out": left_out,
    }
    title = f"{settings.policy} on {scenario.name}, seed {settings.seed}"
    with output_folder(out, FILES) as folder:
        (folder / ANSWER_FILE).write_text(json.dumps(json.loads(to_json(answer)), indent=2) + "\n")
        _write_csv(folder / SENSITIVITY_FILE, Sensitivity._fields, found)
        _write_csv(folder / AGREEMENT_FILE, Agreement._fields, agreed)
        if level == "router":
            _draw_fleet(decisions, scenario, agreed[0].rule, settings.seed, title, folder / PICTURE_FILE)
        else:
            draw_engine(decisions.at(busiest_minute(decisions)), title, folder / PICTURE_FILE)
        write_page(answer, PICTURE_FILE, folder / PAGE_FILE)
    return {**answer, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints what matters most, and where the rest is."""
    console = Console(soft_wrap=True)
    console.print(f"{answer['policy']} on {answer['scenario']}: {answer['decisions']:,} decisions")
    for each in answer["sensitivities"][:5]:
        console.print(f"  {each['changed']:6.1%} of choices change without {each['input']}.{each['feature']}")
    for each in answer["agreements"][:5]:
        console.print(
            f"  {each['share']:6.1%} of choices are those of {each['rule']}, "
            f"{each['by_chance']:.1%} by chance"
        )
    console.print(f"Written: {answer['out']} ({', '.join(FILES)})")


def _load(name: str) -> _Policy:
    kind = kind_of(name)
    if kind not in ("artifact", "run"):
        raise InputError(f"policy = {name}: must be trained: a folder of a run, of an export, or zoo:NAME")
    if kind == "artifact":
        from servegym.agents.serving.artifact.load import load_artifact

        artifact = load_artifact(policy_folder(name))
        found = _Policy(artifact, None, artifact.description["level"])
    else:
        from servegym.agents.learners.families import family_of
        from servegym.experiments.run_directory import load_run_policy

        policy, origin = load_run_policy(Path(name))
        found = _Policy(policy, policy.network, family_of(origin["network"]).level)
    if found.level not in ("router", "scheduler"):
        raise InputError(f"policy = {name}: is of {found.level or 'another kind'}; must route or schedule")
    return found


def _sensitivities(policy: Scored, network: Any, decisions: Decisions, seed: int) -> list[Sensitivity]:
    from servegym.agents.serving.artifact.export import COLUMNS

    rng = np.random.default_rng(seed)
    open_ones = np.flatnonzero(decisions.choices)
    if len(open_ones) == 0:
        raise InputError("scenario: leaves nothing to choose: one replica only")
    few = decisions.at(rng.choice(open_ones, min(SAMPLE, len(open_ones)), replace=False))
    columns = {name: COLUMNS[name] for name in decisions.observation}
    gradients = None if network is None else margin_gradients(network, few)
    return sensitivities(policy, few, columns, gradients, rng)


def _draw_fleet(
    decisions: Decisions, scenario: Scenario, against: str, seed: int, title: str, path: Path
) -> None:
    minute = decisions.at(busiest_minute(decisions))
    within = busiest_decisions(minute)
    same = same_choice(minute, choices_of(against, minute, scenario, seed))
    draw(minute, minute.at(within), against, ~same[within], title, path)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
