"""`servegym evaluate suite=claims`: measures the claims of papers and writes what came out."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_folder import check_replaceable, output_folder
from servegym.costmodels.progress import progress
from servegym.envs.workloads import find_data
from servegym.experiments.claims.claim import Claim, Finding, Paper, check, worst
from servegym.experiments.claims.report import as_markdown
from servegym.experiments.json_answer import to_json
from servegym.experiments.provenance import provenance

FILES = ("claims.json", "claims.csv", "claims.md")
"""What the suite writes."""

OUT = Path("runs/claims")
"""Where it writes unless told otherwise."""


def run_claims(names: Sequence[str] | None, out: Path, papers: Mapping[str, Paper]) -> dict[str, Any]:
    """Measures the claims of the papers named, of all where `names` is None, and writes `FILES` to `out`.

    Returns suite, out and papers: of each its system and source, and its claims by name with their verdicts
    and figures. InputError before any work for an unknown paper, data that are not there, or an `out` that
    holds something else.
    """
    chosen = _choose(names, papers)
    check_replaceable(out, FILES)
    for name, paper in chosen.items():
        for claim in paper.claims:
            _check_data(f"{name}.{claim.name}", claim)
    todo = [(name, claim) for name, paper in chosen.items() for claim in paper.claims]
    answer: dict[str, Any] = {
        "suite": "claims",
        "out": str(out),
        "papers": {
            name: {"system": paper.system, "source": paper.source, "claims": {}}
            for name, paper in chosen.items()
        },
    }
    with progress("", len(todo), "claims") as advance:
        for name, claim in todo:
            advance.doing(f"{name}.{claim.name}")
            answer["papers"][name]["claims"][claim.name] = _described(claim, check(claim))
            advance()
    with output_folder(out, FILES) as folder:
        (folder / "claims.json").write_text(to_json({**answer, **provenance()}) + "\n", encoding="utf-8")
        (folder / "claims.csv").write_text(_as_csv(answer), encoding="utf-8")
        (folder / "claims.md").write_text(as_markdown(answer), encoding="utf-8")
    return answer


def _choose(names: Sequence[str] | None, papers: Mapping[str, Paper]) -> dict[str, Paper]:
    unknown = [name for name in names or () if name not in papers]
    if unknown or (names is not None and not names):
        raise InputError(
            f"claims = {unknown[0] if unknown else '[]'}: must be some of {', '.join(papers)}; null: all"
        )
    return {name: paper for name, paper in papers.items() if names is None or name in names}


def _check_data(name: str, claim: Claim) -> None:
    for path in claim.data:
        if find_data(path) is None:
            raise InputError(
                f"claims: {name} is measured on {path}, which is not there: set SERVEGYM_DATA, or fetch it "
                "(servegym data list)"
            )


def _described(claim: Claim, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "statement": claim.statement,
        "workload": claim.workload,
        "verdict": worst([finding.verdict for finding in findings]),
        "remark": claim.remark,
        "figures": [
            {
                **asdict(finding.figure),
                "ours": finding.ours.iqm,
                "ours_low": finding.ours.low,
                "ours_high": finding.ours.high,
                "verdict": finding.verdict,
            }
            for finding in findings
        ],
    }


def _as_csv(answer: dict[str, Any]) -> str:
    """A line a figure."""
    text = io.StringIO()
    columns = ("name", "kind", "low", "high", "factor", "ours", "ours_low", "ours_high", "verdict")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("paper", "claim", "figure", *columns[1:]))
    for name, paper in answer["papers"].items():
        for claim, found in paper["claims"].items():
            for figure in found["figures"]:
                writer.writerow((name, claim, *(figure[column] for column in columns)))
    return text.getvalue()
