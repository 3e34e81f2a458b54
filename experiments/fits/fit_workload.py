"""Fit `envs/workloads/fitted/azure_conv_2023.json` to the Azure conversation trace.

    python -m servegym.experiments.fits.fit_workload TRACE --test-s 1200 --out FILE

Uses only what arrives before the last `--test-s` seconds, so that those stay unseen for evaluation.
The same trace gives the same file to the byte, wherever trace and file lie.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import JointLengths, read_azure, split
from servegym.envs.workloads.text_files import read_rows

NAME = "azure_conv_2023"
NUM_BINS = 32
LICENCE = "CC-BY-4.0"
ATTRIBUTION = (
    "Azure LLM inference trace 2023, https://github.com/Azure/AzurePublicDataset. P. Patel, E. Choukse, "
    "C. Zhang, A. Shah, I. Goiri, S. Maleki, R. Bianchini: Splitwise: Efficient Generative LLM Inference "
    "Using Phase Splitting, ISCA 2024. Reduced here to quantiles."
)


def fit(trace: Path, test_s: float) -> str:
    """The JSON text of the parameters fitted to an Azure trace without its last `test_s` seconds.

    Rate and coefficient of variation are those of the interarrivals (moments); a Gamma distribution with
    shape 1 / cv^2 has both. Lengths: `JointLengths.fit`. Raises `InputError` for a bad trace or `test_s`.
    """
    train, test = split(read_azure(trace), test_s)
    gaps_s = np.diff(train.arrival_s)
    cv = float(gaps_s.std() / gaps_s.mean())
    lengths = JointLengths.fit(train.prompt_tokens, train.output_tokens, NUM_BINS)
    timestamps = [row.fields[0] for row in read_rows(trace, ["TIMESTAMP"])]
    figures = {
        "name": NAME,
        "provenance": {
            "source": trace.name,
            "licence": LICENCE,
            "attribution": ATTRIBUTION,
            "window": f"all but the last {test_s:g} s",
            "first_arrival": timestamps[0],
            "last_arrival": timestamps[train.num_requests - 1],
            "num_requests": train.num_requests,
            "num_requests_held_out": test.num_requests,
            "command": f"python -m servegym.experiments.fits.fit_workload {trace.name} "
            f"--test-s {test_s:g} --out {NAME}.json",
        },
        "rate_rps": round(train.rate_rps, 6),
        "interarrival_cv": round(cv, 6),
        "levels": lengths.levels.tolist(),
        "prompt_quantiles": lengths.prompt_quantiles.tolist(),
        "output_quantiles": lengths.output_quantiles.tolist(),
    }
    return as_json(figures)


def as_json(figures: dict[str, Any]) -> str:
    """Figures as the committed files have them: a key a line, and each list of numbers on one line."""
    text = json.dumps(figures, indent=1)
    one_line_per_list = re.sub(
        r"\[[^\[\]]*\]", lambda numbers: "".join(numbers[0].split()).replace(",", ", "), text
    )
    return one_line_per_list + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Fit workload parameters to an Azure LLM trace.")
    parser.add_argument("trace", type=Path, metavar="TRACE", help="Azure trace, .csv or .csv.gz")
    parser.add_argument("--test-s", type=float, required=True, help="seconds at the end to leave unseen")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        text = fit(options.trace, options.test_s)
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
