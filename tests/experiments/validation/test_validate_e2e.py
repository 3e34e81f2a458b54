"""The closed-loop comparison: no error against rows that the simulator made, and only the rows it covers."""

import csv
import dataclasses
from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import MODELS, gpu_spec
from servegym.experiments.validation.clocks import kernels_of
from servegym.experiments.validation.end_to_end import (
    Point,
    cost_of,
    kv_blocks,
    read_points,
    show,
    simulate_point,
    validate_e2e,
)

COLUMNS = (
    "silicon_data_source", "backend", "model_path", "system", "precision", "mode", "isl", "osl",
    "moe_quant_mode", "batch_size", "tp_size", "pp_size", "attention_dp_size", "silicon_ttft_ms",
    "silicon_tpot_ms",
)  # fmt: skip
KERNELS = kernels_of("calibrated", gpu_spec("h100_sxm"))
POINT = Point(MODELS["llama_3_1_8b"], "", 256, 16, 4, 2, False, False, 1.0, 1.0)


def row(point: Point, slower: float = 1.0, **changes: str) -> dict[str, str]:
    ttft_s, tpot_s = simulate_point(point, cost_of(point, KERNELS))
    return {
        "silicon_data_source": "measured=2026" if point.varying_lengths else "file",
        "backend": "vllm",
        "model_path": "meta-llama/Llama-3.1-8B",
        "system": "h100_sxm",
        "precision": "fp8" if point.fp8 else "",
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
    fp8 = dataclasses.replace(POINT, fp8=True, varying_lengths=True)
    others = [{"mode": "disagg"}, {"system": "b200_sxm"}, {"pp_size": "2"}, {"model_path": "x/Unknown-7B"}]
    rows = [row(POINT), row(fp8, slower=2.0), *(row(POINT, **other) for other in others)]
    answer = validate_e2e(write(tmp_path / "table.csv", rows), "calibrated")
    assert set(answer["groups"]) == {
        f"Llama-3.1-8B vllm {dtype}{part}"
        for dtype in ("bf16", "fp8")
        for part in ("", " TP 2", " concurrency 4")
    }
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
        validate_e2e(write(tmp_path / "none.csv", []), "calibrated")
    (tmp_path / "short.csv").write_text("system,mode\nh100_sxm,agg\n")
    with pytest.raises(InputError, match="column moe_quant_mode is missing"):
        list(read_points(str(tmp_path / "short.csv")))


def test_fp8_halves_the_weights_and_nothing_else() -> None:
    fp8 = dataclasses.replace(POINT, fp8=True)
    slow, fast = cost_of(POINT, KERNELS), cost_of(fp8, KERNELS)
    assert fast.linear_s[1] < 0.75 * slow.linear_s[1]
    assert (fast.communication_s == slow.communication_s).all()
    assert (fast.lm_head_s == slow.lm_head_s).all()
    model = POINT.model
    embeddings = 2 * model.vocab_size * model.hidden_size
    saved_bytes = (model.weight_bytes / 2) - embeddings
    block_bytes = 16 * model.kv_bytes_per_token
    assert kv_blocks(fp8) - kv_blocks(POINT) == pytest.approx(saved_bytes / block_bytes, abs=2)


def test_an_engine_with_a_slot_less_makes_a_client_wait() -> None:
    point = dataclasses.replace(POINT, output_tokens=64)
    cost = cost_of(point, KERNELS)
    all_s, fewer_s = simulate_point(point, cost), simulate_point(point, cost, point.concurrency - 1)
    decode_s = fewer_s[1] * (point.output_tokens - 1)
    assert fewer_s[0] > all_s[0] + 0.5 * decode_s / point.concurrency
