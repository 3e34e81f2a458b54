"""`servegym validate e2e`: measured TTFT and TPOT at a fixed concurrency against the simulator."""

import csv
import dataclasses
import gzip
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from servegym.costmodels.compile import compile_iteration_cost, kv_capacity_blocks
from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.devices import model_of
from servegym.costmodels.specs import ModelSpec, gpu_spec
from servegym.envs.metrics import tpot_s, ttft_s
from servegym.envs.sim.llm.closed_loop import simulate_closed_loop
from servegym.envs.sim.llm.state import Engine

DEVICE = "h100_sxm"
ROUNDS = 10
"""Requests a client sends, one after the other; the mean is over all of them, as load generators do."""

JITTER = 0.1
"""Lengths vary evenly by this share to either side in rows of InferenceX runs, whose load generator draws
them; the share is assumed. Other rows have equal lengths, so that their clients stay in step."""

MAX_NUM_BATCHED_TOKENS = 8192
"""Default of TensorRT-LLM (`max_num_tokens`) and of vLLM's server on H100; the table does not say."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One row of the table."""

    model: ModelSpec
    group: str
    """Model, backend and precision, as the table has them."""
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    tensor_parallel: int
    varying_lengths: bool
    ttft_s: float
    tpot_s: float


def validate_e2e(table: str) -> dict[str, Any]:
    """Median absolute and signed relative errors of TPOT and TTFT, all points and by model and backend.

    `table`: a CSV in the layout of aiconfigurator's silicon_sample.csv, plain or gzipped; its rows of
    dense models on H100 that serve prefill and decode together and have a preset. Raises InputError for
    a file without such rows.
    """
    points = list(read_points(table))
    if not points:
        raise InputError(f"{table}: no rows of dense models with a preset on {DEVICE}, mode agg")
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rows = []
    for point in points:
        simulated_ttft_s, simulated_tpot_s = simulate_point(point)
        errors = (simulated_tpot_s / point.tpot_s - 1, simulated_ttft_s / point.ttft_s - 1)
        groups[point.group].append(errors)
        rows.append(
            {
                "group": point.group,
                "tensor_parallel": point.tensor_parallel,
                "prompt_tokens": point.prompt_tokens,
                "output_tokens": point.output_tokens,
                "concurrency": point.concurrency,
                "tpot_error": errors[0],
                "ttft_error": errors[1],
            }
        )
    everything = [errors for group in groups.values() for errors in group]
    return {
        "target": "e2e",
        "table": table,
        "device": DEVICE,
        **_medians(everything),
        "groups": {name: _medians(errors) for name, errors in groups.items()},
        "points": rows,
    }


def simulate_point(point: Point) -> tuple[float, float]:
    """Mean TTFT and TPOT of a closed loop of `concurrency` clients."""
    model, gpu = point.model, gpu_spec(DEVICE)
    blocks = kv_capacity_blocks(model, gpu, tensor_parallel=point.tensor_parallel)
    engine = Engine(MAX_NUM_BATCHED_TOKENS, point.concurrency, blocks)
    cost = compile_iteration_cost(
        model,
        gpu,
        tensor_parallel=point.tensor_parallel,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        max_num_seqs=point.concurrency,
        max_kv_tokens=blocks * engine.block_size,
    )
    count = ROUNDS * point.concurrency
    rng, jitter = np.random.default_rng(0), JITTER * point.varying_lengths
    prompts, outputs = (
        np.maximum(np.rint(mean * rng.uniform(1 - jitter, 1 + jitter, count)), 1).astype(np.int64)
        for mean in (point.prompt_tokens, point.output_tokens)
    )
    results = simulate_closed_loop(
        prompts,
        outputs,
        num_clients=point.concurrency,
        engine=engine,
        cost=cost,
    )
    return float(ttft_s(results).mean()), float(np.nanmean(tpot_s(results)))


def read_points(path: str) -> Iterable[Point]:
    """The rows that this target covers."""
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    for number, row in enumerate(csv.DictReader(text.splitlines()), 2):
        try:
            if (
                row["system"] != DEVICE
                or row["mode"] != "agg"
                or row["moe_quant_mode"] not in ("", row["precision"])
            ):
                continue
            if int(row["pp_size"] or 1) != 1 or int(row["attention_dp_size"] or 1) != 1:
                continue
            try:
                model = model_of(row["model_path"], path)
            except InputError:
                continue  # no preset: experts, or dimensions that are not public
            if row["precision"] == "fp8":
                model = dataclasses.replace(model, dtype="fp8")
            yield Point(
                model=model,
                group=f"{row['model_path'].split('/')[-1]} {row['backend']} {row['precision'] or 'bf16'}",
                prompt_tokens=int(row["isl"]),
                output_tokens=int(row["osl"]),
                concurrency=int(row["batch_size"]),
                tensor_parallel=int(row["tp_size"]),
                varying_lengths="measured=" in row["silicon_data_source"],
                ttft_s=float(row["silicon_ttft_ms"]) * 1e-3,
                tpot_s=float(row["silicon_tpot_ms"]) * 1e-3,
            )
        except KeyError as error:
            raise InputError(f"{path}: column {error.args[0]} is missing") from None
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def show(answer: dict[str, Any]) -> None:
    """Prints the errors by model, backend and precision."""
    table = Table(
        "rows of", "points", "TPOT, median of |error|", "signed", "TTFT, median of |error|", "signed",
        title=f"Closed loop on {answer['device']}",
    )  # fmt: skip
    for name, medians in (*answer["groups"].items(), ("all", answer)):
        table.add_row(
            name,
            str(medians["count"]),
            *(
                f"{medians[f'{key}_{kind}']:{form}}"
                for key in ("tpot", "ttft")
                for kind, form in (("median_error", ".1%"), ("median_signed_error", "+.1%"))
            ),
        )
    Console(soft_wrap=True).print(table)


def _medians(errors: list[tuple[float, float]]) -> dict[str, Any]:
    tpot, ttft = np.array(errors).T
    return {
        "count": len(errors),
        "tpot_median_error": float(np.median(np.abs(tpot))),
        "tpot_median_signed_error": float(np.median(tpot)),
        "ttft_median_error": float(np.median(np.abs(ttft))),
        "ttft_median_signed_error": float(np.median(ttft)),
    }
