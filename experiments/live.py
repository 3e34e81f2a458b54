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
from servegym.experiments.live_comparison.comparison import LiveSettings, foretell, report_age_s, run_live
from servegym.experiments.live_comparison.contestant import Contestant
from servegym.experiments.live_comparison.fronts import require_python

METRICS = ("mean_ttft_s", "p99_ttft_s", "mean_latency_s")
ANSWER_FILE = "live.json"


@dataclass
class LiveConfig:
    """Schema of `conf/live.yaml`."""

    scenario: ScenarioConfig = MISSING
    routers: list[str] = MISSING
    baselines: list[str] = MISSING
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
        if not self.baselines:
            raise InputError("baselines = []: must have one at least")
        for key in ("time_scale", "report_period_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise InputError(f"{key} = {getattr(self, key)}: must be positive and finite")


def live(config: DictConfig) -> dict[str, Any]:
    """Runs every router on every seed's traffic; writes `live.json` and all logs to `out`.

    Lines: what was seen of a router and what the simulator foretold, means over seeds, each metric with its
    advantage, 1 - its value / that of the baseline behind the same proxy (where it has none, of the first).
    The simulator foretells for ours what they do with reports as old as those were that they had.
    """
    settings = read_config(config, LiveConfig)
    out = Path(settings.out)
    check_replaceable(out, ())
    contestants = [Contestant(name) for name in dict.fromkeys([*settings.baselines, *settings.routers])]
    seeds = read_seeds(settings.seeds)
    for contestant in contestants:
        require_python(contestant, settings.python)
    scenario = build_scenario(settings.scenario)
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
            seen: list[dict[str, float]] = []
            foretold: list[dict[str, float]] = []
            for seed in seeds:
                workload = scenario.traffic.test_workload(seed).take(slice(settings.requests))
                serving = _serving(contestant, scenario, settings) if contestant.is_ours else None
                folder = out / f"{contestant.name.replace(':', '-').replace('/', '-')}-seed{seed}"
                seen.append(run_live(contestant, workload, serving, running, folder).summary())
                seen[-1]["report_age_s"] = age_s = report_age_s(folder) if contestant.is_ours else 0.0
                told = foretell(contestant, workload, _aged(settings.scenario, age_s))
                if told is not None:
                    foretold.append(summarise(told))
                advance()
            lines.append(_line(contestant, seen, foretold))
    _compare(lines, settings.baselines)
    answer = {
        "scenario": scenario.name,
        "num_replicas": scenario.num_replicas,
        "requests": settings.requests,
        "seeds": seeds,
        "time_scale": settings.time_scale,
        "lines": lines,
    }
    write_json(out / ANSWER_FILE, answer)
    write_origin(out, "live")
    return {**answer, "out": str(out)}


def show(answer: dict[str, Any]) -> None:
    """Prints a table for each metric, with a line for each router, seen and foretold."""
    console = Console()
    console.print(
        f"{answer['scenario']}, {answer['requests']} requests, seeds {answer['seeds']}, seen at "
        f"1/{answer['time_scale']:g} of the speed",
        soft_wrap=True,
    )
    for name in METRICS:
        words = name.removesuffix("_s").replace("_", " ").replace("ttft", "TTFT").replace("p99", "P99")
        table = Table("router", "seen, ms", "foretold", "advantage", "foretold", "over", title=words)
        for column in table.columns[1:5]:
            column.justify = "right"
        for line in answer["lines"]:
            table.add_row(
                line["router"],
                _ms(line["seen"][name]),
                _ms((line["foretold"] or {}).get(name)),
                _percent(line["advantage"][name]),
                _percent((line["advantage_foretold"] or {}).get(name)),
                line["baseline"],
            )
        console.print(table)
    for line in answer["lines"]:
        if lost := line["seen"]["num_lost"]:
            console.print(f"{line['router']}: {lost:.0f} requests lost", soft_wrap=True)
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
        "proxy": contestant.proxy,
        "seen": _means(seen),
        "foretold": {name: _means(foretold)[name] for name in METRICS} if foretold else None,
    }


def _aged(config: ScenarioConfig, age_s: float) -> Scenario:
    """The scenario whose routers see the state of this age."""
    return build_scenario(replace(config, fleet=replace(config.fleet, state_delay_s=age_s)))


def _is_of_scenario(key: str) -> bool:
    """Whether a word of the command belongs to the scenario, which the workers are given too."""
    return key.lstrip("+~") == "scenario" or "scenario." in key


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _compare(lines: list[dict[str, Any]], baselines: list[str]) -> None:
    """Adds what each line has over its baseline."""
    of_proxy = {line["proxy"]: line for line in reversed(lines) if line["router"] in baselines}
    for line in lines:
        baseline = of_proxy.get(line["proxy"], lines[0])
        line["baseline"] = baseline["router"]
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
