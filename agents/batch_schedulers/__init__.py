"""Published schedulers of batch serving, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.batch_schedulers.clipper import clipper
from servegym.agents.batch_schedulers.clockwork import clockwork
from servegym.agents.batch_schedulers.load_proportional import load_proportional
from servegym.agents.batch_schedulers.nexus import nexus
from servegym.agents.batch_schedulers.shepherd import shepherd
from servegym.agents.batch_schedulers.symphony import symphony
from servegym.agents.batch_schedulers.tf_serving import tf_serving
from servegym.agents.batch_schedulers.triton import triton
from servegym.agents.published import make_published
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.sim.batch.scheduler import BatchScheduler

BATCH_SCHEDULERS: dict[str, Callable[..., BatchScheduler]] = {
    make.__name__: make for make in (symphony, clockwork, shepherd, nexus, clipper, tf_serving, triton)
}
"""What makes each scheduler, by name; its arguments are the published parameters."""


def make_batch_scheduler(name: str, **parameters: object) -> BatchScheduler:
    """The scheduler `name` with these parameters; InputError lists the known ones."""
    return make_published("batch_scheduler", BATCH_SCHEDULERS, name, parameters)


AUTOSCALERS: dict[str, Callable[..., Autoscaler]] = {"load_proportional": load_proportional}
"""What makes each autoscaler, by name."""


def make_autoscaler(name: str, **parameters: object) -> Autoscaler:
    """The autoscaler `name` with these parameters; InputError lists the known ones."""
    return make_published("autoscaler", AUTOSCALERS, name, parameters)


__all__ = ["AUTOSCALERS", "BATCH_SCHEDULERS", "make_autoscaler", "make_batch_scheduler"]
