"""Make `costmodels/profiles/dnn_batch_latency.json` from published batch latencies.

    python -m servegym.experiments.fits.fit_batch_latency FOLDER --out FILE

FOLDER holds `batch_latency.csv.gz`: the performance tables of the READMEs of NVIDIA/DeepLearningExamples.
The same folder gives the same file to the byte.
"""

import argparse
import csv
import gzip
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from servegym.costmodels.batch import LinearBatchLatency
from servegym.costmodels.errors import InputError

TABLE = "batch_latency.csv.gz"
IDENTITY = ("model", "precision", "sequence length", "backend accelerator", "framework")
"""What sets apart the curves of one table; other entries of `variant` are further measurements."""
GPU = re.compile(r"\b(A100|V100|T4|A30|A40)\b")
PROVENANCE = {
    "source": "NVIDIA/DeepLearningExamples, performance tables in READMEs, commit 729963dd of 2024-04-04",
    "licence": "Apache-2.0 or BSD-3-Clause, by folder of the source",
    "includes": "Triton pages: end to end at the client of an idle server; others: a framework's step",
    "rule": "one request stream (concurrency 1), three batch sizes or more, each measured once, and batch / "
    "throughput within 0.75 to 1.33 of the latency",
    "command": "python -m servegym.experiments.fits.fit_batch_latency FOLDER --out dnn_batch_latency.json",
}


def fit(folder: Path) -> str:
    """The JSON text of the profiles. InputError where the table is missing or holds no profile."""
    curves = _curves(folder / TABLE)
    profiles, unlike = [], 0
    for (file, section, variant), rows in curves.items():
        batch = [int(float(row["batch"])) for row in rows]
        gpu = GPU.search(section)
        if gpu is None or len(batch) < 3 or len(set(batch)) < len(batch):
            continue
        unit_s = 1e-6 if "DLRM" in file else 1e-3  # the pages of DLRM print us; others without a unit, ms
        if not all(_agrees_with_throughput(row, unit_s, "DLRM" in file) for row in rows):
            unlike += 1
            continue
        order = np.argsort(batch)
        sizes = np.array(batch)[order]
        times = np.round(np.array([float(row["latency_avg"]) for row in rows])[order] * unit_s, 9)
        law = LinearBatchLatency.fit(sizes, times)
        profiles.append(
            {
                "model": _model(file, section, variant),
                "gpu": gpu[0],
                "variant": "; ".join(filter(None, [*_words(section), variant])),
                "batch": sizes.tolist(),
                "latency_s": times.tolist(),
                "alpha_s": float(f"{law.alpha_s:.6g}"),
                "beta_s": float(f"{law.beta_s:.6g}"),
                "linear_error": round(float(np.mean(np.abs(law.seconds(sizes) / times - 1))), 4),
            }
        )
    if not profiles:
        raise InputError(f"{folder / TABLE}: no batch latencies of the GPUs A100, A30, A40, T4, V100")
    left_out = f"{unlike} curves that throughput contradicts"
    figures = {"provenance": {**PROVENANCE, "left_out": left_out}, "profiles": profiles}
    text = json.dumps(figures, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text) + "\n"


def _curves(path: Path) -> dict[tuple[str, str, str], list[dict[str, str]]]:
    curves: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in _rows(path):
        words = [word.partition("=") for word in row["variant"].split(";") if "=" in word]
        facts = {key: value for key, _, value in words}
        if row["latency_avg"] and row["throughput_per_s"] and facts.get("concurrency", "1") == "1":
            variant = "; ".join(f"{key} {facts[key]}" for key in IDENTITY if key in facts)
            curves.setdefault((row["file"], row["section"], variant), []).append(row)
    return curves


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _agrees_with_throughput(row: dict[str, str], unit_s: float, exponent_lost: bool) -> bool:
    """Little's law with one batch in flight. Some pages print `3.6E+05/s`, of which the table holds 3.6."""
    ratio = float(row["batch"]) / float(row["throughput_per_s"]) / (float(row["latency_avg"]) * unit_s)
    if exponent_lost:
        ratio /= 10.0 ** round(math.log10(ratio))
    return 0.75 < ratio < 1.33


def _model(file: str, section: str, variant: str) -> str:
    """The name of the network: of the variant, else of the section, else of the folder."""
    named = re.search(r"(?:^|; )model ([^;]+)", variant)
    folder = next(
        part for part in reversed(file.split("/")[:-1]) if part not in ("triton", "doc")
    )  # the pages on serving lie one deeper
    if "DLRM" in folder:
        return "DLRM" if "DLRM on" in section else "DCNv2"
    if folder in ("dist4l", "dist6l", "large"):
        return f"BERT-{folder}"
    if folder == "ConvNets":  # TensorFlow's page for all of them
        return "ResNet-50"
    if named is None:
        return folder
    return f"{folder}-{named[1]}" if folder == "BERT" else named[1]


def _words(section: str) -> list[str]:
    """The last heading or two: machine, runtime, precision."""
    headings = [part.strip() for part in section.split(">")]
    kept = headings[-2:] if "Latency" in headings[-1] else headings[-1:]
    return [re.sub(r"^(Offline|Inference performance|Fine-tuning.*? on): ?", "", part) for part in kept]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Profiles of DNN batch latencies from published tables.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=f"holds {TABLE}")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        text = fit(options.folder)
        try:
            options.out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"--out {options.out}: cannot be written ({error.strerror})") from None
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
