"""Systems that serve elastic scenarios: managers of the fleet, and engines of others on the same GPUs and
clock."""

import functools
from collections.abc import Callable

from servegym.agents.elastic_managers import MANAGERS
from servegym.agents.elastic_systems.chunked_prefill import chunked_prefill
from servegym.agents.elastic_systems.deepspeed_mii import deepspeed_mii
from servegym.agents.elastic_systems.distserve import distserve
from servegym.agents.elastic_systems.managed import managed
from servegym.agents.elastic_systems.system import ElasticSystem, ServedRequests
from servegym.agents.elastic_systems.vllm import vllm
from servegym.agents.published import make_published

RIVALS: dict[str, Callable[..., ElasticSystem]] = {
    make.__name__: make for make in (vllm, chunked_prefill, deepspeed_mii, distserve)
}
"""What makes each system that is no manager of the fleet, by name; arguments are its parameters."""

SYSTEMS = (*MANAGERS, *RIVALS)
"""Names of all systems."""


def make_elastic_system(name: str, **parameters: object) -> ElasticSystem:
    """The system `name` with these parameters; InputError lists the known ones."""
    makers = {each: functools.partial(managed, each) for each in MANAGERS} | RIVALS
    return make_published("elastic_system", makers, name, parameters)


__all__ = ["RIVALS", "SYSTEMS", "ElasticSystem", "ServedRequests", "make_elastic_system"]
