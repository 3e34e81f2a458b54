"""`servegym validate e2e`: measured TTFT and TPOT at a fixed concurrency against the simulator.

Engine and load generator are set as documented: InferenceX's launch scripts and load generator of October
2025 for the rows that name a `measured` date, the defaults of TensorRT-LLM for the others, about which the
table says nothing. No constant is fitted to the rows. What stays missed, and why, is in NOTES.
"""

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

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import compile_iteration_cost, kv_capacity_blocks
from servegym.costmodels.iterations.composer import Parallelism, compose_iteration_cost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.kernels.devices import model_of
from servegym.costmodels.operators.kernel_model import KernelModel
from servegym.costmodels.progress import tracked
from servegym.costmodels.specs import ModelSpec, gpu_spec
from servegym.envs.metrics import tpot_s, ttft_s
from servegym.envs.sim.llm.closed_loop import simulate_closed_loop
from servegym.envs.sim.llm.engine import Engine
from servegym.experiments.validation.clocks import kernels_of

DEVICE = "h100_sxm"
ROUNDS = 10
"""Requests a client sends, one after the other; the mean is over all of them, the first burst included.
InferenceX does so (10 prompts a client, request rate inf, no warm-up); of the other rows it is not known."""

SHORTEST = 0.8
"""Prompts and outputs of InferenceX runs are drawn evenly from this share of the nominal length up to all of
it (its `random-range-ratio`). Other rows have equal lengths, so that their clients stay in step."""

MAX_NUM_BATCHED_TOKENS = 8192
"""What InferenceX gives to vLLM, and the default of TensorRT-LLM (`max_num_tokens`)."""

MAX_NUM_SEQS = 128
"""The largest concurrency among the rows: the tables reach so far."""


NOTES = (
    "KV cache of fp8 rows: the table does not say; taken as bf16. Launch scripts of InferenceX differ by "
    "version, some say fp8.",
    "TTFT of TensorRT-LLM is missed: at concurrency 8 to 64 it grows with the output length, by about 1 / "
    "(concurrency - 1) of a request's whole latency. That is what a closed loop gives when the engine serves "
    "one request less than there are clients (Little's law), and not what any prefill takes; nothing "
    "documented says that it does, so it stays out of the figures.",
    "At concurrency 128 TTFT falls as outputs get longer, like a burst that is shared out over the run; with "
    "TP 4 and 8 a front end and chunks that are never cut (TensorRT-LLM does not chunk prefills by default, "
    "the simulator does) may add to it. Neither is known.",
)


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
    fp8: bool
    """Weights, and activations where they multiply them; KV cache and messages stay in 16 bit."""
    varying_lengths: bool
    ttft_s: float
    tpot_s: float


def validate_e2e(table: str, clock: str = "measured", data: str | None = None) -> dict[str, Any]:
    """Median absolute and signed relative errors of TPOT and TTFT, of all points and by what they share.

    `table`: a CSV in the layout of aiconfigurator's silicon_sample.csv, plain or gzipped; its rows of
    dense models on H100 that serve prefill and decode together and have a preset. `clock`, `data`: see
    `kernels_of`. Raises InputError for a file without such rows.

    `one_slot_less` has the same errors of an engine that serves one request less than there are clients:
    an explanation of the TTFT of TensorRT-LLM, which is no part of the other figures.
    """
    kernels = kernels_of(clock, gpu_spec(DEVICE), data)
    points = list(read_points(table))
    if not points:
        raise InputError(f"{table}: no rows of dense models with a preset on {DEVICE}, mode agg")
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    fewer: list[tuple[float, float]] = []
    costs: dict[tuple[str, bool, int], IterationCost] = {}
    for point in tracked(points, "Simulating", "points"):
        key = (point.model.name, point.fp8, point.tensor_parallel)
        if key not in costs:
            costs[key] = cost_of(point, kernels)
        ttft, tpot = simulate_point(point, costs[key])
        errors = _errors(point, (ttft, tpot))
        for name in (
            point.group,
            f"{point.group} TP {point.tensor_parallel}",
            f"{point.group} concurrency {point.concurrency}",
        ):
            groups[name].append(errors)
        if "trtllm" in point.group and point.concurrency > 1:
            fewer.append(_errors(point, simulate_point(point, costs[key], point.concurrency - 1)))
        rows.append(
            {
                "group": point.group,
                "tensor_parallel": point.tensor_parallel,
                "prompt_tokens": point.prompt_tokens,
                "output_tokens": point.output_tokens,
                "concurrency": point.concurrency,
                "measured_tpot_s": point.tpot_s,
                "simulated_tpot_s": tpot,
                "measured_ttft_s": point.ttft_s,
                "simulated_ttft_s": ttft,
                "tpot_error": errors[0],
                "ttft_error": errors[1],
            }
        )
    return {
        "target": "e2e",
        "table": table,
        "device": DEVICE,
        "clock": clock,
        **_medians([(row["tpot_error"], row["ttft_error"]) for row in rows]),
        "groups": {name: _medians(groups[name]) for name in sorted(groups, key=_by_number)},
        "one_slot_less": _medians(fewer) if fewer else None,
        "points": rows,
    }


def cost_of(point: Point, kernels: KernelModel | None) -> IterationCost:
    """The tables for a point's model. Without `kernels` the plain roofline, which knows one dtype: in fp8 it
    takes activations, KV cache and messages for one byte too.
    """
    gpu = gpu_spec(DEVICE)
    limits: dict[str, Any] = {
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        "max_num_seqs": MAX_NUM_SEQS,
        "max_kv_tokens": 16 * kv_blocks(point),
    }
    if kernels is None:
        model = dataclasses.replace(point.model, dtype="fp8") if point.fp8 else point.model
        return compile_iteration_cost(model, gpu, tensor_parallel=point.tensor_parallel, **limits)
    return compose_iteration_cost(
        point.model,
        kernels,
        parallelism=Parallelism(tensor=point.tensor_parallel),
        weight_dtype="fp8" if point.fp8 else None,
        **limits,
    )


def kv_blocks(point: Point) -> int:
    """Blocks of 16 tokens: with weights in fp8, embedding and LM head and the KV cache stay in 16 bit."""
    model, gpu = point.model, gpu_spec(DEVICE)
    if not point.fp8:
        return kv_capacity_blocks(model, gpu, tensor_parallel=point.tensor_parallel)
    in_fp8 = dataclasses.replace(model, dtype="fp8")
    kept_bytes = 2 * model.vocab_size * model.hidden_size // point.tensor_parallel
    reserved_bytes = 3 * 2**30 + kept_bytes
    return (
        kv_capacity_blocks(in_fp8, gpu, tensor_parallel=point.tensor_parallel, reserved_bytes=reserved_bytes)
        // 2
    )


def simulate_point(point: Point, cost: IterationCost, max_num_seqs: int | None = None) -> tuple[float, float]:
    """Mean TTFT and TPOT of a closed loop of `concurrency` clients; they all run at once by default."""
    engine = Engine(MAX_NUM_BATCHED_TOKENS, max_num_seqs or point.concurrency, kv_blocks(point))
    count = ROUNDS * point.concurrency
    rng, shortest = np.random.default_rng(0), SHORTEST if point.varying_lengths else 1.0
    prompts, outputs = (
        np.maximum(np.rint(longest * rng.uniform(shortest, 1, count)), 1).astype(np.int64)
        for longest in (point.prompt_tokens, point.output_tokens)
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
            yield Point(
                model=model,
                group=f"{row['model_path'].split('/')[-1]} {row['backend']} {row['precision'] or 'bf16'}",
                prompt_tokens=int(row["isl"]),
                output_tokens=int(row["osl"]),
                concurrency=int(row["batch_size"]),
                tensor_parallel=int(row["tp_size"]),
                fp8=row["precision"] == "fp8",
                varying_lengths="measured=" in row["silicon_data_source"],
                ttft_s=float(row["silicon_ttft_ms"]) * 1e-3,
                tpot_s=float(row["silicon_tpot_ms"]) * 1e-3,
            )
        except KeyError as error:
            raise InputError(f"{path}: column {error.args[0]} is missing") from None
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def show(answer: dict[str, Any]) -> None:
    """Prints the errors by model, backend and precision, of these by GPUs and by concurrency."""
    table = Table(
        "rows of", "points", "TPOT, median of |error|", "signed", "TTFT, median of |error|", "signed",
        title=f"Closed loop on {answer['device']}, {answer['clock']} clock",
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
    console = Console(soft_wrap=True)
    console.print(table)
    if answer["one_slot_less"]:
        fewer = answer["one_slot_less"]
        console.print(
            f"Explanation, no correction: TensorRT-LLM serving one request less than there are clients: TTFT "
            f"{fewer['ttft_median_error']:.1%} ({fewer['ttft_median_signed_error']:+.1%}), TPOT "
            f"{fewer['tpot_median_error']:.1%} ({fewer['tpot_median_signed_error']:+.1%})"
        )
    for note in NOTES:
        console.print(note)


def _errors(point: Point, simulated: tuple[float, float]) -> tuple[float, float]:
    """Of TPOT and TTFT."""
    return simulated[1] / point.tpot_s - 1, simulated[0] / point.ttft_s - 1


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts "TP 8" before "TP 16"."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in name.split()]


def _medians(errors: list[tuple[float, float]]) -> dict[str, Any]:
    tpot, ttft = np.array(errors).T
    return {
        "count": len(errors),
        "tpot_median_error": float(np.median(np.abs(tpot))),
        "tpot_median_signed_error": float(np.median(tpot)),
        "ttft_median_error": float(np.median(np.abs(ttft))),
        "ttft_median_signed_error": float(np.median(ttft)),
    }
