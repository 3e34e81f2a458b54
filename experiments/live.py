"""`servegym live`: routers as they run, in front of emulated workers, beside what the simulator foretells."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.config import PLAIN, FleetConfig, PolicyConfig, ServingConfig
from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable
from servegym.costmodels.progress import progress
from servegym.envs.metrics import summarise
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.experiments.answer_folder import write_json, write_origin
from servegym.experiments.configs import build_scenario, read_config, read_seeds
from servegym.experiments.emulation.workers import allow_many_connections
from servegym.experiments.live_comparison.comparison import LiveSettings, foretell, run_live
from servegym.experiments.live_comparison.contestant import Contestant
from servegym.experiments.live_comparison.fronts import require_python

METRICS = ("mean_ttft_s", "p99_ttft_s", "mean_latency_s")
ANSWER_FILE = "live.json"


@dataclass
class LiveConfig:
    """Schema of `conf/live.yaml`."""

    scenario: ScenarioConfig = MISSING
    routers: list[str] = MISSING
    baseline: str = MISSING
    requests: int = 1000
    seeds: Any = 1
    time_scale: float = 5.0
    stream_interval: int = 10
    report_period_s: float = 0.1
    python: dict[str, str | None] = field(default_factory=dict)
    out: str = MISSING

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise InputError(f"requests = {self.requests}: must be at least 1")
        for key in ("time_scale", "report_period_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise InputError(f"{key} = {getattr(self, key)}: must be positive and finite")


def live(config: DictConfig) -> dict[str, Any]:
    """Runs every router on every seed's traffic; writes `live.json` and all logs to `out`.

    Lines: what was seen of a router and what the simulator foretold, means over seeds, each metric with its
    advantage over the baseline, 1 - its value / the baseline's.
    """
    settings = read_config(config, LiveConfig)
    out = Path(settings.out)
    check_replaceable(out, ())
    contestants = [Contestant(name) for name in dict.fromkeys([settings.baseline, *settings.routers])]
    seeds = read_seeds(settings.seeds)
    for contestant in contestants:
        require_python(contestant, settings.python)
    scenario = build_scenario(settings.scenario)
    # Reports are half a period old in the mean, on the clock of the model.
    age_s = 0.5 * settings.report_period_s / settings.time_scale
    aged = build_scenario(
        replace(settings.scenario, fleet=replace(settings.scenario.fleet, state_delay_s=age_s))
    )
    running = LiveSettings(
        words=[word for word in HydraConfig.get().overrides.task if _is_of_scenario(word.partition("=")[0])],
        time_scale=settings.time_scale,
        stream_interval=settings.stream_interval,
        report_period_s=settings.report_period_s,
        model=settings.scenario.fleet.model,
        pythons=settings.python,
    )
    allow_many_connections()
    lines: list[dict[str, Any]] = []
    with progress("Running", len(contestants) * len(seeds), "traces") as advance:
        for contestant in contestants:
            seen, foretold = [], []
            for seed in seeds:
                workload = scenario.traffic.test_workload(seed).take(slice(settings.requests))
                serving = _serving(contestant, scenario, settings) if contestant.is_ours else None
                folder = out / f"{contestant.name.replace(':', '-').replace('/', '-')}-seed{seed}"
                seen.append(run_live(contestant, workload, serving, running, folder).summary())
                told = foretell(contestant, workload, aged if contestant.is_ours else scenario)
                foretold.append(None if told is None else summarise(told))
                advance()
            lines.append(_line(contestant, seen, [each for each in foretold if each is not None]))
    _compare(lines)
    answer = {
        "scenario": scenario.name,
        "num_replicas": scenario.num_replicas,
        "requests": settings.requests,
        "seeds": seeds,
        "time_scale": settings.time_scale,
        "baseline": settings.baseline,
        "lines": lines,
    }
    write_json(out / ANSWER_FILE, answer)
    write_origin(out, "live")
    return {**answer, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints a line for each router, seen and foretold."""
    table = Table(
        title=f"{answer['scenario']}: {answer['requests']} requests of {len(answer['seeds'])} seeds, seen at "
        f"1/{answer['time_scale']:g} of the speed, and foretold; advantage over {answer['baseline']}"
    )
    table.add_column("router")
    for name in METRICS:
        words = name.removesuffix("_s").replace("_", " ").replace("ttft", "TTFT").replace("p99", "P99")
        for column in (words + ", ms", "foretold", "advantage", "foretold"):
            table.add_column(column, justify="right")
    table.add_column("lost", justify="right")
    for line in answer["lines"]:
        cells = [line["router"]]
        for name in METRICS:
            cells += [_ms(line["seen"][name]), _ms((line["foretold"] or {}).get(name))]
            cells += [
                _percent(line["advantage"][name]),
                _percent((line["advantage_foretold"] or {}).get(name)),
            ]
        table.add_row(*cells, f"{line['seen']['num_lost']:.0f}")
    console = Console(width=None)
    console.print(table)
    console.print(f"Written: {answer['out']}", soft_wrap=True)


def _serving(contestant: Contestant, scenario: Scenario, settings: LiveConfig) -> ServingConfig:
    plain = contestant.policy in PLAIN
    return ServingConfig(
        policy=PolicyConfig(heuristic=contestant.policy)
        if plain
        else PolicyConfig(artifact=contestant.policy),
        setting=dict(zip(SETTING_FEATURES, scenario.setting.tolist(), strict=True)),
        fleet=FleetConfig(scenario.engine.block_size, scenario.engine.num_kv_blocks),
        time_scale=settings.time_scale,
        # Whatever else runs on a machine that emulates a fleet may hold a decision up.
        deadline_s=0.1,
    )


def _line(
    contestant: Contestant, seen: list[dict[str, float]], foretold: list[dict[str, float]]
) -> dict[str, Any]:
    return {
        "router": contestant.name,
        "simulated": contestant.simulated,
        "seen": _means(seen),
        "foretold": {name: _means(foretold)[name] for name in METRICS} if foretold else None,
    }


def _is_of_scenario(key: str) -> bool:
    """Whether a word of the command belongs to the scenario, which the workers are given too."""
    return key.lstrip("+~") == "scenario" or "scenario." in key


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _compare(lines: list[dict[str, Any]]) -> None:
    """Adds what each line has over the first one, which is the baseline."""
    baseline = lines[0]
    for line in lines:
        line["advantage"] = {name: 1 - line["seen"][name] / baseline["seen"][name] for name in METRICS}
        line["advantage_foretold"] = None
        if line["foretold"] is not None and baseline["foretold"] is not None:
            line["advantage_foretold"] = {
                name: 1 - line["foretold"][name] / baseline["foretold"][name] for name in METRICS
            }


def _ms(value: float | None) -> str:
    return "" if value is None else f"{1000 * value:,.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
