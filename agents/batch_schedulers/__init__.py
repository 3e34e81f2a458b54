"""Published schedulers of batch serving, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.batch_schedulers.clipper import clipper
from servegym.agents.batch_schedulers.clockwork import clockwork
from servegym.agents.batch_schedulers.nexus import nexus
from servegym.agents.batch_schedulers.shepherd import shepherd
from servegym.agents.batch_schedulers.symphony import symphony
from servegym.agents.batch_schedulers.tf_serving import tf_serving
from servegym.agents.batch_schedulers.triton import triton
from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.scheduler import BatchScheduler

BATCH_SCHEDULERS: dict[str, Callable[..., BatchScheduler]] = {
    make.__name__: make for make in (symphony, clockwork, shepherd, nexus, clipper, tf_serving, triton)
}
"""What makes each scheduler, by name; its arguments are the published parameters."""


def make_batch_scheduler(name: str, **parameters: object) -> BatchScheduler:
    """The scheduler `name` with these parameters; InputError lists the known ones."""
    if name not in BATCH_SCHEDULERS:
        raise InputError(f"batch scheduler = {name}: must be one of {', '.join(BATCH_SCHEDULERS)}")
    try:
        return BATCH_SCHEDULERS[name](**parameters)
    except TypeError as error:
        raise InputError(f"batch scheduler {name}: {error}") from error


__all__ = ["BATCH_SCHEDULERS", "make_batch_scheduler"]
