"""Fit LoongServe's law of prefills to times composed from kernels: `costmodels/profiles/elastic`.

    python -m servegym.experiments.fits.fit_elastic [--out FOLDER]

One set of coefficients for each degree of sequence and tensor parallelism, on one node of eight GPUs and on
two. The batches are like those that LoongServe's artifact measures.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.elastic.compose import ring_link, ring_prefill_seconds
from servegym.costmodels.elastic.prefill_law import PrefillLaw
from servegym.costmodels.elastic.presets import Degree, elastic_folder, elastic_preset_name
from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.operators.calibrated import calibrated_roofline
from servegym.costmodels.output_file import output_file
from servegym.costmodels.specs import GpuSpec, ModelSpec, gpu_spec, model_spec
from servegym.costmodels.transfer import INFINIBAND_LOONGSERVE

PRESETS = (
    ("lwm_7b", "a800_sxm"),
    ("lwm_7b", "a100_sxm"),
    ("llama_3_1_8b", "a800_sxm"),
    ("llama_3_1_8b", "h100_sxm"),
)
TENSOR_PARALLEL = (1, 2, 4, 8)
GPUS_OF_A_NODE, NODES = 8, 2

REQUESTS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 196, 256, 384, 512, 768, 1024)
TOKENS = (10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 400_000, 500_000)
"""Batches of the artifact (test/longserve/1-benchmark-identical-req.py)."""
REQUESTS_BETWEEN = (3, 12, 40, 80, 160, 320, 640)
TOKENS_BETWEEN = (30, 140, 350, 700, 1400, 3000, 7000, 14_000, 35_000, 70_000, 140_000, 300_000)
"""Others, which the law is not fitted to."""
KV_BYTES_OF_A_GPU = 101_000 * 512 * 1024
"""Of the artifact's instances while it measures: 101,000 tokens of LWM-7B a GPU."""


def batches(
    model: ModelSpec, degree: Degree, requests: Sequence[int], tokens: Sequence[int]
) -> list[tuple[int, int]]:
    """(requests, tokens of each) of those prefills that fit into the instances' memory."""
    gpus = degree.tensor_parallel * degree.instances
    room = gpus * KV_BYTES_OF_A_GPU // model.kv_bytes_per_token
    return [(b, n) for b, n in itertools.product(requests, tokens) if b * n <= room]


def errors(law: PrefillLaw, sizes: list[tuple[int, int]], seconds: Floats) -> dict[str, float]:
    """Of the law on these batches: absolute relative errors."""
    found = np.abs(law.batch_seconds([[n] * b for b, n in sizes]) / seconds - 1.0)
    return {
        "mean": round(float(found.mean()), 4),
        "geometric_mean": round(float(np.exp(np.log(np.maximum(found, 1e-9)).mean())), 4),
        "largest": round(float(found.max()), 4),
    }


def degrees() -> Iterator[Degree]:
    """All that one node and two nodes have room for."""
    for tensor in TENSOR_PARALLEL:
        per_node = GPUS_OF_A_NODE // tensor
        yield from (Degree(tensor, k, False) for k in range(1, per_node + 1))
        yield from (Degree(tensor, k, True) for k in range(2, NODES * per_node + 1))


def fit_degree(model: ModelSpec, gpu: GpuSpec, degree: Degree) -> dict[str, Any]:
    """One row of a preset: the degree, its coefficients and their errors."""
    kernels = calibrated_roofline(gpu)
    link = INFINIBAND_LOONGSERVE if degree.crosses else ring_link(gpu, kernels)

    def seconds(sizes: list[tuple[int, int]]) -> Floats:
        table = np.array(sizes)
        return ring_prefill_seconds(
            model,
            kernels,
            tensor=degree.tensor_parallel,
            instances=degree.instances,
            requests=table[:, 0],
            tokens=table[:, 1],
            link=link,
        )

    fitted, between = (
        batches(model, degree, *grid) for grid in ((REQUESTS, TOKENS), (REQUESTS_BETWEEN, TOKENS_BETWEEN))
    )
    law = PrefillLaw.fit([[n] * b for b, n in fitted], seconds(fitted))
    figures = (law.constant_s, law.per_token_s, law.per_token_squared_s)
    law = PrefillLaw(*(float(f"{figure:.6g}") for figure in figures))
    return {
        **degree._asdict(),
        "constant_s": law.constant_s,
        "per_token_s": law.per_token_s,
        "per_token_squared_s": law.per_token_squared_s,
        "batches": len(fitted),
        "error": errors(law, fitted, seconds(fitted)),
        "error_between": errors(law, between, seconds(between)),
    }


def fit_preset(model: str, gpu: str) -> dict[str, Any]:
    """A whole preset as a JSON object."""
    near = ring_link(gpu_spec(gpu), calibrated_roofline(gpu_spec(gpu))).bytes_per_s
    rows = [fit_degree(model_spec(model), gpu_spec(gpu), degree) for degree in degrees()]
    return {
        "model": model,
        "gpu": gpu,
        "law": "T = constant_s + per_token_s sum(l) + per_token_squared_s sum(l^2); LoongServe, SOSP 2024",
        "fitted_to": "prefills composed from the calibrated roofline and LoongServe's times of launches "
        "(costmodels/elastic/compose.py)",
        "node": f"{GPUS_OF_A_NODE} GPUs; between GPUs {near:.3g} bytes/s, between nodes "
        f"{INFINIBAND_LOONGSERVE.bytes_per_s:g} bytes/s of each GPU",
        "errors": "absolute relative errors on the batches of the fit, and on others between them",
        "command": "python -m servegym.experiments.fits.fit_elastic",
        "prefill": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Coefficients of prefills under sequence parallelism.")
    parser.add_argument("--out", type=Path, default=Path(str(elastic_folder())), help="default: the package")
    options = parser.parse_args(arguments)
    for model, gpu in PRESETS:
        preset = fit_preset(model, gpu)
        name = elastic_preset_name(model, gpu)
        with output_file(options.out / f"{name}.json") as file:
            file.write(_one_row_a_line(preset).encode())
        for row in preset["prefill"]:
            error = row["error"]
            degree = (
                f"tp {row['tensor_parallel']} sp {row['instances']:2d} {'far ' if row['crosses'] else 'near'}"
            )
            print(
                f"{name} {degree} A {1e3 * row['constant_s']:.1f} ms B {1e6 * row['per_token_s']:.2f} us "
                f"C {1e9 * row['per_token_squared_s']:.4f} ns; error mean {error['mean']:.1%} geometric "
                f"{error['geometric_mean']:.1%} largest {error['largest']:.1%}"
            )
    return 0


def _one_row_a_line(preset: dict[str, Any]) -> str:
    rows = ",\n  ".join(json.dumps(row) for row in preset["prefill"])
    head = json.dumps({key: value for key, value in preset.items() if key != "prefill"}, indent=1)
    return head.removesuffix("\n}") + ',\n "prefill": [\n  ' + rows + "\n ]\n}\n"


if __name__ == "__main__":
    sys.exit(main())
