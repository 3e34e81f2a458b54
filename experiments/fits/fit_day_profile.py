"""Fit `envs/workloads/profiles/servegen_m_large_day.json` to the rates of ServeGen's clients.

    python -m servegym.experiments.fits.fit_day_profile CLIENTS --day 6 --out FILE

The rate of all clients together on one day, in windows of 10 minutes. The committed one is the last day of
the week, on which it goes through a factor of 4; the mean of the days has all but lost its shape.
The same clients give the same file to the byte, wherever they and the file lie.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.servegen import RATE_WINDOW_S, read_client_rates

NAME = "servegen_m_large_day"
DAY_S = 86400.0
LICENCE = "Apache-2.0"
ATTRIBUTION = (
    "ServeGen, https://github.com/alibaba/ServeGen, clients of language model m-large. Y. Xiang et al.: "
    "ServeGen: Workload Characterization and Generation of Large Language Model Serving in Production, NSDI "
    "2026. Reduced here to the sum of the rates on one day."
)


def fit(clients: Path, day: int) -> str:
    """The JSON text of the profile of that day, counted from 0. InputError for bad files."""
    if day < 0:
        raise InputError(f"--day {day}: must be at least 0")
    rate_rps = np.zeros(round(DAY_S / RATE_WINDOW_S))
    for window in read_client_rates(clients, day * DAY_S, (day + 1) * DAY_S):
        rate_rps[int(window.start_s % DAY_S // RATE_WINDOW_S)] += window.rate_rps
    if not rate_rps.any():
        raise InputError(f"{clients}: no client at work on day {day}")
    figures = {
        "name": NAME,
        "provenance": {
            "source": clients.name,
            "licence": LICENCE,
            "attribution": ATTRIBUTION,
            "first_window_s": day * DAY_S,
            "mean_rate_rps": round(float(rate_rps.mean()), 4),
            "command": f"python -m servegym.experiments.fits.fit_day_profile {clients.name} "
            f"--day {day} --out {NAME}.json",
        },
        "factors": [round(float(factor), 4) for factor in rate_rps / rate_rps.mean()],
    }
    *head, last = json.dumps(figures, indent=1).partition('"factors": ')
    return "".join(head) + json.dumps(json.loads(last[:-1])) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Fit the rate by time of day to ServeGen's clients.")
    parser.add_argument("clients", type=Path, metavar="CLIENTS", help="folder or tar archive of the clients")
    parser.add_argument("--day", type=int, required=True, help="counted from 0")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        text = fit(options.clients, options.day)
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
