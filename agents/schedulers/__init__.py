"""Published schedulers that say who goes first, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.published import make_published
from servegym.agents.schedulers.conservative import conservative
from servegym.agents.schedulers.edf import edf
from servegym.agents.schedulers.fastserve import fastserve
from servegym.agents.schedulers.larry import larry
from servegym.agents.schedulers.learning_to_rank import learning_to_rank
from servegym.agents.schedulers.multi_bin import multi_bin
from servegym.agents.schedulers.priority import priority
from servegym.agents.schedulers.sjf import sjf
from servegym.agents.schedulers.slack import slack
from servegym.agents.schedulers.srpt import srpt
from servegym.agents.schedulers.ssjf import ssjf
from servegym.agents.schedulers.trail import trail
from servegym.agents.schedulers.vtc import vtc
from servegym.envs.sim.llm.ranking import Ranking

SCHEDULERS: dict[str, Callable[..., Ranking]] = {
    make.__name__: make
    for make in (
        sjf,
        priority,
        edf,
        slack,
        larry,
        multi_bin,
        conservative,
        srpt,
        ssjf,
        learning_to_rank,
        trail,
        fastserve,
        vtc,
    )
}
"""What makes each scheduler, by name; its arguments are the published parameters."""


def make_scheduler(name: str, **parameters: object) -> Ranking:
    """The scheduler `name` with these parameters; InputError lists the known ones."""
    return make_published("scheduler", SCHEDULERS, name, parameters)


__all__ = ["SCHEDULERS", "make_scheduler"]
