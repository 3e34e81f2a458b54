"""Published schedulers of batch serving, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.batch_schedulers.autoscaling import symphony_autoscaler
from servegym.agents.batch_schedulers.clipper import clipper
from servegym.agents.batch_schedulers.clockwork import clockwork
from servegym.agents.batch_schedulers.nexus import nexus
from servegym.agents.batch_schedulers.shepherd import shepherd
from servegym.agents.batch_schedulers.symphony import symphony
from servegym.agents.batch_schedulers.tf_serving import tf_serving
from servegym.agents.batch_schedulers.triton import triton
from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.autoscaler import Autoscaler
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


AUTOSCALERS: dict[str, Callable[..., Autoscaler]] = {"staggered": symphony_autoscaler}
"""What makes each autoscaler, by name: that of Symphony goes by the law of staggered batches."""


def make_autoscaler(name: str, **parameters: object) -> Autoscaler:
    """The autoscaler `name` with these parameters; InputError lists the known ones."""
    if name not in AUTOSCALERS:
        raise InputError(f"autoscaler = {name}: must be one of {', '.join(AUTOSCALERS)}")
    try:
        return AUTOSCALERS[name](**parameters)
    except TypeError as error:
        raise InputError(f"autoscaler {name}: {error}") from error


__all__ = ["AUTOSCALERS", "BATCH_SCHEDULERS", "make_autoscaler", "make_batch_scheduler"]
