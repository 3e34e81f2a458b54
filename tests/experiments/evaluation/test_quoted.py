"""A card quotes the rows of its policy, and what is worse as a limit."""

import csv
import json
from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.experiments.evaluation.quoted import quote


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, rows: list[dict[str, object]]) -> None:
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    (tmp_path / "provenance.json").write_text(json.dumps({"suite": "s", "version": 3, "seeds": [0, 1, 2]}))
    aggregate: dict[str, object] = {
        "score": 0.95,
        "low": 0.94,
        "high": 0.96,
        "better": 1,
        "level": 0,
        "worse": 1,
    }
    write("summary.csv", [{"policy": name, **aggregate} for name in ("jsq", "runs/r")])
    figures: dict[str, object] = {"metric": "mean_latency_s", "best_heuristic": "sal", "mean": 1.23456}
    write(
        "scenarios.csv",
        [
            {"policy": policy, "scenario": name, **figures, "change": change, "change_low": change - 0.01}
            | {"change_high": change + 0.01, "verdict": verdict, "gap_closed": gap}
            for policy in ("jsq", "runs/r")
            for name, change, verdict, gap in (("a", -0.1, "better", 0.5), ("b", 0.03, "worse", ""))
        ],
    )
    write("not_played.csv", [{"scenario": "c", "policy": "runs/r", "status": "failed", "why": "too large"}])
    return tmp_path


def test_what_is_quoted_is_what_was_found(folder: Path) -> None:
    quoted = quote(folder, "zoo:best", "runs/r")
    assert quoted["command"] == "servegym evaluate suite=s policy=zoo:best seeds=3"
    assert "suite s, version 3, over 3 test seeds: score 0.950 (0.940 to 0.960)" in quoted["what"]
    assert quoted["table"][1:] == [
        ["a", "mean_latency_s", "1.235", "sal", "-10.0%", "-11.0% to -9.0%", "50%"],
        ["b", "mean_latency_s", "1.235", "sal", "+3.0%", "+2.0% to +4.0%", ""],
    ]
    assert quoted["limits"] == [
        "On b worse than sal: +3.0% (+2.0% to +4.0%).",
        "Does not play c: too large.",
    ]


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be of zoo:other, not of"):
        quote(folder, "zoo:other")
    (folder / "summary.csv").unlink()
    with pytest.raises(InputError, match=r"has no summary\.csv"):
        quote(folder, "zoo:best")
