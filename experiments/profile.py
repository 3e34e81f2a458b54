"""`servegym profile`: measures operators and whole decoder layers, and writes a table of kernel timings."""

from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.profiles import MANIFEST, write_profile
from servegym.costmodels.kernels.schema import OPERATORS
from servegym.costmodels.output_folder import check_replaceable
from servegym.costmodels.specs import model_spec
from servegym.experiments.configs import read_config
from servegym.experiments.profiling.settings import Grid, Timing
from servegym.experiments.profiling.shapes import MEASURED, PER_MODEL, Job, check_shards, shapes


@dataclass
class ProfileConfig:
    """Schema of `conf/profile.yaml`."""

    device: str = MISSING
    out: str = MISSING
    models: list[str] = field(default_factory=list)
    tensor_parallel: list[int] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    dtype: str = MISSING
    gpus: list[int] = field(default_factory=list)
    grid: Grid = field(default_factory=Grid)
    timing: Timing = field(default_factory=Timing)


def profile(config: DictConfig) -> dict[str, Any]:
    """Measures on a CUDA device, or on this CPU, and writes the folder `out`, complete or not at all.

    InputError for a device that is not there and for settings that measure nothing, naming the key.
    """
    settings = read_config(config, ProfileConfig)
    _check(settings)
    import torch  # what follows needs it

    from servegym.experiments.profiling.device import describe, open_device
    from servegym.experiments.profiling.measure import Measurement

    device = open_device(settings.device)
    present = torch.cuda.device_count() if settings.device == "cuda" else max(settings.gpus, default=0)
    gpus = [count for count in settings.gpus if count <= present and "all_reduce" in settings.operators]
    measurement = Measurement(device, settings.dtype, settings.timing)
    measurement.run(_jobs(settings), settings.grid.message_bytes, gpus)
    timings, skipped = measurement.timings, measurement.skipped
    if not timings:
        raise InputError(f"nothing was measured: {len(skipped)} shapes do not fit into memory, none is left")
    # Described last, so that the clocks are those under load.
    facts = {**describe(device), "config": asdict(settings), "out_of_memory": skipped}
    write_profile(settings.out, timings, facts)
    return {
        "out": settings.out,
        "device": timings[0].device,
        "software": timings[0].software,
        "out_of_memory": len(skipped),
        "tables": [
            {
                "operator": each.operator,
                "variant": each.variant,
                "timings": len(each),
                "shortest_s": float(each.seconds.min()),
                "longest_s": float(each.seconds.max()),
            }
            for each in timings
        ],
    }


def show(answer: dict[str, Any]) -> None:
    """Prints how much was measured and where it is."""
    console = Console(soft_wrap=True)
    table = Table("operator", "variant", "timings", "shortest (us)", "longest (us)")
    for each in answer["tables"]:
        times = (f"{1e6 * each['shortest_s']:.1f}", f"{1e6 * each['longest_s']:.1f}")
        table.add_row(each["operator"], each["variant"], str(each["timings"]), *times)
    console.print(table)
    console.print(f"{answer['device']}, {answer['software']}: {Path(answer['out']) / 'profile.json'}")
    if answer["out_of_memory"]:
        console.print(f"{answer['out_of_memory']} shapes left out: not enough memory")


def _check(settings: ProfileConfig) -> None:
    """InputError for names and numbers out of range, and for a folder that must not be replaced."""
    check_replaceable(
        Path(settings.out), [MANIFEST, *(f"{operator}.csv" for operator in OPERATORS)]
    )  # before measuring
    settings.grid.check()
    settings.timing.check()
    if not settings.operators or not set(settings.operators) <= set(MEASURED):
        raise InputError(f"operators = {settings.operators}: must be one or more of {', '.join(MEASURED)}")
    if settings.dtype not in ("bf16", "fp16"):
        raise InputError(f"dtype = {settings.dtype}: must be bf16 or fp16")
    if any(count < 2 for count in settings.gpus):
        raise InputError(f"gpus = {settings.gpus}: each must be at least 2")
    if not settings.models or not settings.tensor_parallel:
        raise InputError("models and tensor_parallel: each must hold one entry or more")
    for name, tp in product(settings.models, settings.tensor_parallel):
        check_shards(model_spec(name), tp)


def _jobs(settings: ProfileConfig) -> list[Job]:
    models = [model_spec(name) for name in dict.fromkeys(settings.models)]
    shards, grid = settings.tensor_parallel, settings.grid
    jobs = []
    for operator in dict.fromkeys(settings.operators):
        if operator in PER_MODEL:
            jobs += [Job(operator, shapes(operator, [model], shards, grid), model) for model in models]
        elif operator != "all_reduce":
            jobs.append(Job(operator, shapes(operator, models, shards, grid)))
    return jobs
