"""The closed-loop comparison: no error against rows that the simulator made, and only the rows it covers."""

import csv
import dataclasses
from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import MODELS
from servegym.experiments.validate_e2e import Point, read_points, show, simulate_point, validate_e2e

COLUMNS = (
    "silicon_data_source", "backend", "model_path", "system", "precision", "mode", "isl", "osl",
    "moe_quant_mode", "batch_size", "tp_size", "pp_size", "attention_dp_size", "silicon_ttft_ms",
    "silicon_tpot_ms",
)  # fmt: skip
POINT = Point(MODELS["llama_3_1_8b"], "", 256, 16, 4, 2, False, 1.0, 1.0)


def row(point: Point, slower: float = 1.0, **changes: str) -> dict[str, str]:
    ttft_s, tpot_s = simulate_point(point)
    return {
        "silicon_data_source": "measured=2026" if point.varying_lengths else "file",
        "backend": "vllm",
        "model_path": "meta-llama/Llama-3.1-8B",
        "system": "h100_sxm",
        "precision": "fp8" if point.model.dtype == "fp8" else "",
        "mode": "agg",
        "isl": str(point.prompt_tokens),
        "osl": str(point.output_tokens),
        "moe_quant_mode": "",
        "batch_size": str(point.concurrency),
        "tp_size": str(point.tensor_parallel),
        "pp_size": "1",
        "attention_dp_size": "",
        "silicon_ttft_ms": repr(1e3 * ttft_s * slower),
        "silicon_tpot_ms": repr(1e3 * tpot_s * slower),
        **changes,
    }


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return str(path)


def test_errors_are_medians_by_group_over_the_rows_that_are_covered(tmp_path: Path) -> None:
    fp8 = dataclasses.replace(
        POINT, model=dataclasses.replace(POINT.model, dtype="fp8"), varying_lengths=True
    )
    others = [{"mode": "disagg"}, {"system": "b200_sxm"}, {"pp_size": "2"}, {"model_path": "x/Unknown-7B"}]
    rows = [row(POINT), row(fp8, slower=2.0), *(row(POINT, **other) for other in others)]
    answer = validate_e2e(write(tmp_path / "table.csv", rows))
    assert set(answer["groups"]) == {"Llama-3.1-8B vllm bf16", "Llama-3.1-8B vllm fp8"}
    assert answer["groups"]["Llama-3.1-8B vllm bf16"]["tpot_median_error"] == pytest.approx(0, abs=1e-9)
    for key in ("tpot", "ttft"):
        assert answer["groups"]["Llama-3.1-8B vllm fp8"][f"{key}_median_signed_error"] == pytest.approx(-0.5)
        assert answer[f"{key}_median_error"] == pytest.approx(0.25)
    show(answer)


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_points(str(tmp_path / "absent.csv")))
    with pytest.raises(InputError, match=r"line 2: .*'many'"):
        list(read_points(write(tmp_path / "bad.csv", [row(POINT, isl="many")])))
    with pytest.raises(InputError, match="no rows of dense models"):
        validate_e2e(write(tmp_path / "none.csv", []))
    (tmp_path / "short.csv").write_text("system,mode\nh100_sxm,agg\n")
    with pytest.raises(InputError, match="column moe_quant_mode is missing"):
        list(read_points(str(tmp_path / "short.csv")))
