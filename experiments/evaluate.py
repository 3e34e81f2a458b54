"""`servegym evaluate`: policies compared pairwise on the same requests over several seeds."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.costmodels.progress import progress
from servegym.envs.scenario.compose import list_scenarios
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.suites import Suite
from servegym.experiments.answer_folder import ORIGIN_FILES, typed_command, write_json, write_origin
from servegym.experiments.claims.papers import PAPERS
from servegym.experiments.claims.report import show as show_claims
from servegym.experiments.claims.suite import OUT, run_claims
from servegym.experiments.configs import build_scenario, read_config, read_seeds
from servegym.experiments.evaluation.batching import evaluate_batching, is_of_batching, show_batching
from servegym.experiments.evaluation.comparison import Evaluation, Rows
from servegym.experiments.evaluation.contenders import contender, kind_of, scenario_of_run, suite_of
from servegym.experiments.evaluation.plots import PLOTS, draw_plots
from servegym.experiments.evaluation.report import Report, write_report
from servegym.experiments.evaluation.statistics import FEWEST_SEEDS
from servegym.experiments.evaluation.suites import evaluate_suite, show_suite
from servegym.experiments.evaluation.tables import tables
from servegym.experiments.provenance import versions

TABLE_WIDTH = 130
"""Characters for the tables where no terminal says how wide it is."""

DEFAULT_POLICIES = (
    "random",
    "round_robin",
    "power_of_two",
    "jsq",
    "least_outstanding_tokens",
    "lowest_kv_use",
    "sal",
    "predicted_ttft",
)
"""Policies compared on a scenario unless told otherwise."""

ANSWER_FILE = "evaluation.json"
FILES = (
    "results.csv",
    "summary.csv",
    "comparisons.csv",
    "report.html",
    ANSWER_FILE,
    *ORIGIN_FILES,
    *PLOTS,
)
"""What an evaluation writes."""


@dataclass
class EvaluateConfig:
    """Schema of `conf/evaluate.yaml`."""

    scenario: Any = MISSING  # missing: the one the only run was trained on
    policies: list[str] | None = None
    policy: str | None = None
    rebalancer: Any = None
    run_dir: str | None = None
    seeds: Any = MISSING  # a number of seeds, or a list of them
    baseline: str = MISSING
    out: str | None = None
    suite: Suite | None = None  # instead of a scenario; claims instead of policies too
    claims: list[str] | None = None


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Runs every policy on the same test workloads and writes tables, plots and a report to `out`.

    Returns scenario, workload_source, seeds, baseline, of each policy its scheduler (None: the engine's own)
    and each metric's iqm, low and high, the comparisons, and the paths `report` and `out`. InputError for
    anything that cannot be evaluated, before the first simulation. With `suite`: what `evaluate_suite` or
    `run_claims` returns; with a run that was trained to batch: what `evaluate_batching` returns.
    """
    if OmegaConf.is_missing(config, "scenario"):
        config = config.copy()
        config.scenario = None
    settings = _with_policy(read_config(config, EvaluateConfig))
    if settings.suite is not None or settings.claims is not None:
        return _run_suite(settings)
    seeds = read_seeds(settings.seeds, FEWEST_SEEDS)
    if settings.run_dir is not None and is_of_batching(Path(settings.run_dir)):
        folder = settings.out or f"{settings.run_dir}/evaluation"
        return evaluate_batching(Path(settings.run_dir), seeds, Path(folder), settings.scenario)
    kinds = _kinds(settings)
    runs = [name for name, kind in kinds.items() if kind == "run"]
    scenario = build_scenario(_scenario(settings, runs), settings.rebalancer)
    out = _out(settings, runs, scenario.name)
    contenders = [contender(name, kind, scenario) for name, kind in kinds.items()]
    workloads = [scenario.traffic.test_workload(seed) for seed in seeds]
    results = {}
    with progress("", len(contenders), "policies") as advance:
        for each in contenders:
            advance.doing(each.name)
            results[each.name] = each.serve(workloads, seeds)
            advance()
    limits = [scenario.slo_limits(workload) for workload in workloads]
    evaluation = Evaluation(seeds, settings.baseline, results, limits)
    learned = [name for name, kind in kinds.items() if kind in ("artifact", "run")]
    report = Report(
        scenario,
        evaluation,
        {each.name: each.description for each in contenders},
        learned,
        typed_command("evaluate"),
        versions(),
    )
    answer = {
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "scheduler": {each.name: each.scheduler for each in contenders},
        **evaluation.findings(),
        "report": str(out / "report.html"),
        "out": str(out),
    }
    _write(out, report, answer)
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints the tables."""
    if answer.get("suite") == "claims":
        show_claims(answer)
        return
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    if "suite" in answer:
        show_suite(answer, console)
        return
    if "environment" in answer:
        show_batching(answer, console)
        return
    console.print(f"\n{answer['scenario']}, {answer['workload_source']}, {len(answer['seeds'])} seeds\n")
    for table in tables(answer):
        console.print(table.as_rich(), "")
    console.print(f"Report: {answer['report']}", soft_wrap=True)


def _with_policy(settings: EvaluateConfig) -> EvaluateConfig:
    """`policy` as one more of the policies, and the suite it was trained on, where nothing is given."""
    if settings.policy is None:
        return settings
    suite = settings.suite
    if suite is None and settings.scenario is None:
        suite = suite_of(settings.policy)
    others = settings.policies
    if others is None:
        others = [] if suite is not None else list(DEFAULT_POLICIES)
    return replace(settings, suite=suite, policies=[*others, settings.policy])


def _run_suite(settings: EvaluateConfig) -> dict[str, Any]:
    name = settings.suite.name if settings.suite else None
    if settings.claims is not None and name != "claims":
        raise InputError(f"suite = {name}: must be claims, or null without claims")
    for key in ("scenario", "rebalancer"):
        if getattr(settings, key) is not None:
            raise InputError(f"{key}: must not be given with suite={name}, which has its own")
    if settings.suite is None or settings.suite.name == "claims":
        if settings.run_dir is not None:
            raise InputError("run_dir: must not be given with suite=claims, whose claims have their own")
        return run_claims(settings.claims, Path(settings.out) if settings.out else OUT, PAPERS)
    policies = list(settings.policies or [])
    if settings.run_dir is not None:
        policies.append(settings.run_dir)
    out = Path(settings.out or f"runs/evaluate/suite_{name}")
    return evaluate_suite(
        settings.suite, policies, read_seeds(settings.seeds, FEWEST_SEEDS), out, typed_command("evaluate")
    )


def _kinds(settings: EvaluateConfig) -> dict[str, str]:
    """What each policy is, in order: the baseline first unless it is listed, `run_dir` last."""
    names = list(DEFAULT_POLICIES if settings.policies is None else settings.policies)
    if settings.baseline not in (*names, settings.run_dir):
        names.insert(0, settings.baseline)
    kinds = {name: kind_of(name) for name in names}
    if settings.run_dir is not None:
        names.append(settings.run_dir)
        kinds[settings.run_dir] = "run"
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"policies: {name} is given twice")
    return kinds


def _scenario(settings: EvaluateConfig, runs: list[str]) -> ScenarioConfig:
    if isinstance(settings.scenario, ScenarioConfig):
        return settings.scenario
    if settings.scenario is not None:
        raise InputError(
            f"scenario = {settings.scenario.name}: must be of LLM fleets, whose routers are compared: "
            f"{', '.join(list_scenarios(ScenarioConfig))}"
        )
    if len(runs) != 1:
        raise InputError(
            f"scenario: no choice made, and {len(runs)} training runs among the policies to take it from; "
            "give scenario=NAME (servegym list shows the names) or exactly one run"
        )
    return scenario_of_run(runs[0])


def _out(settings: EvaluateConfig, runs: list[str], scenario_name: str) -> Path:
    """Where to write; an earlier evaluation may be replaced, nothing else."""
    if settings.out is not None:
        out = Path(settings.out)
    else:
        out = Path(runs[0]) / "evaluation" if runs else Path("runs/evaluate") / scenario_name
    check_replaceable(out, FILES)
    return out


def _write(out: Path, report: Report, answer: dict[str, Any]) -> None:
    evaluation = report.evaluation
    with output_folder(out, FILES) as folder:
        _write_csv(folder / "results.csv", evaluation.result_rows())
        _write_csv(folder / "summary.csv", evaluation.summary_rows())
        _write_csv(folder / "comparisons.csv", evaluation.comparison_rows())
        captions = draw_plots(evaluation, report.learned, report.scenario.num_replicas, folder)
        write_report(report, captions, folder)
        write_json(folder / ANSWER_FILE, answer)
        write_origin(folder, "evaluate")


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
