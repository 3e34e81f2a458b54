"""The workload parameters that come with the package: figures fitted to public traces."""

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.lengths import JointLengths


@dataclass(frozen=True, eq=False)
class FittedWorkload:
    """What `generate` needs to imitate a trace, and where the figures come from."""

    name: str
    rate_rps: float
    interarrival_cv: float  # standard deviation over mean
    lengths: JointLengths
    provenance: dict[str, str | int | float]


def load_fitted(name: str) -> FittedWorkload:
    """Load `fitted/<name>.json`, for example `azure_conv_2023`; `InputError` lists the names there are."""
    folder = resources.files("servegym.envs.workloads") / "fitted"
    known = sorted(
        file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")
    )
    if name not in known:
        raise InputError(f"fitted workload is {name!r}, allowed: {', '.join(known)}")
    figures = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    lengths = JointLengths(
        levels=np.array(figures["levels"]),
        prompt_quantiles=np.array(figures["prompt_quantiles"], dtype=np.int32),
        output_quantiles=np.array(figures["output_quantiles"], dtype=np.int32),
    )
    return FittedWorkload(
        name, figures["rate_rps"], figures["interarrival_cv"], lengths, figures["provenance"]
    )
