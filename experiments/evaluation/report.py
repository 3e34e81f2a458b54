"""The report of an evaluation: one page that needs nothing else, for a reader who was not there."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import WorkloadConfig
from servegym.envs.scenario.fleet_config import FleetConfig, PoolConfig
from servegym.experiments.evaluation.comparison import Evaluation
from servegym.experiments.evaluation.tables import UNITS, WINS, interval, percent, tables


@dataclass(frozen=True)
class Report:
    """What the page tells beside the numbers.

    descriptions: of each policy what it is. command: repeats the evaluation. versions: of the packages.
    """

    scenario: Scenario
    evaluation: Evaluation
    descriptions: dict[str, str]
    learned: list[str]
    command: str
    versions: dict[str, str]


def write_report(report: Report, plots: dict[str, str], folder: Path) -> None:
    """Writes `report.html` to `folder`, where the `plots` (file name: caption) already are."""
    title = f"Routers compared on {report.scenario.name}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_introduction(report))}</p>",
        _verdicts(report),
        "<h2>What was run</h2>",
        _facts(report),
        "<h2>Figures in tables</h2>",
        *(f'<div class="wide">{table.as_html()}</div>' for table in tables(report.evaluation.findings())),
        "<h2>Plots</h2>",
        *(_figure(folder / name, caption) for name, caption in plots.items()),
        "<h2>How to read it</h2>",
        READING,
        "<h2>Reproduce</h2>",
        f"<pre>{escape(report.command)}</pre>",
        f"<p>{escape(', '.join(f'{name} {version}' for name, version in report.versions.items()))}.</p>",
        "<p>The numbers: results.csv (by policy, seed and metric), summary.csv and comparisons.csv.</p>",
    ]
    body = "\n".join(section for section in sections if section)
    page = PAGE.replace("TITLE", escape(title)).replace("BODY", body)
    (folder / "report.html").write_text(page, encoding="utf-8")


def _introduction(report: Report) -> str:
    fleet = report.scenario.config.fleet
    kinds = [_replicas(pool.replicas, fleet, pool) for pool in fleet.pools] or [
        _replicas(fleet.num_replicas, fleet, fleet)
    ]
    return (
        f"A fleet of {' and '.join(kinds)}, serving {MODELS[fleet.model].name}, was simulated under "
        f"{len(report.evaluation.policies)} routing policies. A policy decides, as each request arrives, "
        "which replica gets it. Every policy was given the very same requests."
    )


def _replicas(count: int, fleet: FleetConfig, own: FleetConfig | PoolConfig) -> str:
    """How many replicas with which GPUs and role, by their own settings or else those of the fleet."""
    gpu, tensor_parallel, role = (
        getattr(own, key) or getattr(fleet, key) for key in ("gpu", "tensor_parallel", "role")
    )
    noun = "replica" if count == 1 else "replicas"
    if role == "encode":
        return f"{count} encode {noun}"
    gpus = f"one {GPUS[gpu].name} GPU" if tensor_parallel == 1 else f"{tensor_parallel} {GPUS[gpu].name} GPUs"
    return f"{count} {role + ' ' if role != 'mixed' else ''}{noun} on {gpus} each"


def _verdicts(report: Report) -> str:
    """What the intervals allow to say of each learned policy."""
    found = {(one["policy"], one["against"], one["metric"]): one for one in report.evaluation.comparisons}
    lines = []
    for policy in report.learned:
        for against in (name for name in report.evaluation.policies if name not in report.learned):
            parts = []
            for metric in WINS:
                one = found[policy, against, metric]
                parts.append(
                    f"{UNITS[metric].heading} {percent(one['change'])} ({interval(one)}), {one['verdict']}"
                )
            lines.append(
                f"<li><b>{escape(policy)}</b> against {escape(against)}: {escape('; '.join(parts))}.</li>"
            )
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _facts(report: Report) -> str:
    evaluation, engine = report.evaluation, report.scenario.engine
    facts = {
        "Scenario": report.scenario.name,
        "Workload": report.scenario.traffic.source,
        "Test and training": _disjoint(report.scenario.config.workload, report.scenario.traffic.source),
        "Seeds": ", ".join(map(str, evaluation.seeds)),
        "Load": _load(evaluation),
        "Replicas": str(report.scenario.num_replicas),
        "Engine": f"{_whose(report)}{engine.scheduler}; at most {engine.max_num_batched_tokens:,} tokens "
        f"per iteration and {engine.max_num_seqs:,} running requests; {engine.num_kv_blocks:,} KV blocks of "
        f"{engine.block_size} tokens per replica",
        "Baseline": evaluation.baseline,
        "Policies": "; ".join(f"{name} ({what})" for name, what in report.descriptions.items()),
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return f"<dl>{rows}</dl>"


def _whose(report: Report) -> str:
    return "of the first pool: " if report.scenario.config.fleet.pools else ""


def _disjoint(workload: WorkloadConfig, source: str) -> str:
    if source.startswith("trace"):
        return (
            f"Test requests come from the last {workload.test_s:,.0f} s of the trace, training requests from "
            f"the part before it: they share none. Each seed keeps another {100 * workload.keep:g} % of the "
            "test requests, so the intervals speak of this stretch of this trace."
        )
    return (
        "Test requests are drawn from random streams that training never uses: they share none. Seeds differ "
        "in all arrivals and lengths."
    )


def _load(evaluation: Evaluation) -> str:
    arrivals_s = [results.arrival_s for results in evaluation.results[evaluation.baseline]]
    mean_requests = np.mean([len(times_s) for times_s in arrivals_s])
    mean_rps = np.mean([len(times_s) / max(np.ptp(times_s), 1e-9) for times_s in arrivals_s])
    baseline, unit = evaluation.summaries[evaluation.baseline], UNITS["p99_ttft_s"]
    median, p99 = (unit.show(float(np.mean(baseline[name]))) for name in ("p50_ttft_s", "p99_ttft_s"))
    return (
        f"{mean_requests:,.0f} requests per seed at {mean_rps:,.1f} requests/s on average; under "
        f"{evaluation.baseline} the median TTFT is {median} {unit.unit} and P99 is {p99} {unit.unit}"
    )


def _figure(path: Path, caption: str) -> str:
    image = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{image}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


READING = """<p>TTFT, time to first token: from the arrival of a request to its first output token. TPOT, time
per output token: the mean gap between the tokens after the first. Latency: from arrival to the last token. A
request is preempted when its replica runs out of KV cache; what it had computed is computed again later.</p>
<p>Each metric is one number per policy and seed. The estimate is the interquartile mean over seeds: the mean
of the middle half, a quarter of the weight taken off at each end. Its 95 % interval is the percentile
bootstrap over seeds. Changes are paired: the ratio of two policies on the same requests, seed by seed,
averaged in the same way as a logarithm. A policy is called better or worse where the interval of the change
excludes 0, else undecided.</p>"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #fff; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; } h3 { margin-bottom: 0; }
h3 + p { margin-top: 0; color: #555; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e6e6e6; vertical-align: top;
  white-space: nowrap; }
th:first-child { text-align: left; }
thead th { border-bottom: 2px solid #999; }
tbody th { font-weight: normal; }
small { display: block; color: #6a6a6a; font-weight: normal; }
.best { font-weight: bold; }
.better { color: #00663f; } .worse { color: #a63603; } .undecided { color: #6a6a6a; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; }
dt { font-weight: bold; } dd { margin: 0; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #444; font-size: .9rem; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
</style>
</head>
<body>
BODY
</body>
</html>
"""
