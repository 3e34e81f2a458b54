"""Fit `envs/workloads/fitted/{sharegpt,arxiv}.json` to published tables of lengths.

    python -m servegym.experiments.fits.fit_lengths NAME TABLE --out FILE

The tables have no arrivals: the rate is 1 and the coefficient of variation 1, so `scenario.workload.test_s`
counts requests. The same table gives the same file to the byte, wherever table and file lie.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import JointLengths
from servegym.envs.workloads.length_tables import read_lengths
from servegym.experiments.fits.fit_workload import NUM_BINS, as_json

LICENCE = "MIT (repository)"
ATTRIBUTION = {
    "sharegpt": "Prompt and output lengths of 10,000 ShareGPT conversations in Llama-2 tokens, cut at 4,096 "
    "in all, https://github.com/AKafakA/vidur_opt_scheduler. The ShareGPT corpus itself states no licence. "
    "Reduced here to quantiles.",
    "arxiv": "Prompt and output lengths of arXiv summarisation in Llama-2 tokens, cut at 4,096 in all, "
    "https://github.com/microsoft/vidur. A. Agrawal et al.: Vidur: A Large-Scale Simulation Framework for "
    "LLM Inference, MLSys 2024. Reduced here to quantiles.",
}
"""By the name of the figures, whose work the table is."""


def fit(name: str, table: Path) -> str:
    """The JSON text of the lengths fitted to a table. InputError for a bad table."""
    pairs = read_lengths(table)
    lengths = JointLengths.fit(pairs.prompt_tokens, pairs.output_tokens, NUM_BINS)
    return as_json(
        {
            "name": name,
            "provenance": {
                "source": table.name,
                "licence": LICENCE,
                "attribution": ATTRIBUTION[name],
                "window": "the whole table, which has no arrivals",
                "num_requests": len(pairs.prompt_tokens),
                "command": f"python -m servegym.experiments.fits.fit_lengths {name} {table.name} "
                f"--out {name}.json",
            },
            "rate_rps": 1.0,
            "interarrival_cv": 1.0,
            "levels": lengths.levels.tolist(),
            "prompt_quantiles": lengths.prompt_quantiles.tolist(),
            "output_quantiles": lengths.output_quantiles.tolist(),
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Fit lengths of requests to a published table of them.")
    parser.add_argument("name", choices=ATTRIBUTION, metavar="NAME", help=", ".join(ATTRIBUTION))
    parser.add_argument("table", type=Path, metavar="TABLE", help="table of lengths, .csv or .csv.gz")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        text = fit(options.name, options.table)
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
