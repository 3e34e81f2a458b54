"""Published managers of elastic fleets, one per file, under their own names and parameters."""

from collections.abc import Callable

from servegym.agents.elastic_managers.fixed_parallelism import fixed_parallelism
from servegym.agents.elastic_managers.loongserve import loongserve
from servegym.agents.published import make_published
from servegym.envs.sim.elastic.manager import Manager

MANAGERS: dict[str, Callable[..., Manager]] = {
    make.__name__: make for make in (loongserve, fixed_parallelism)
}
"""What makes each manager, by name; its arguments are the published parameters."""


def make_elastic_manager(name: str, **parameters: object) -> Manager:
    """The manager `name` with these parameters; InputError lists the known ones."""
    return make_published("elastic_manager", MANAGERS, name, parameters)


__all__ = ["MANAGERS", "make_elastic_manager"]
