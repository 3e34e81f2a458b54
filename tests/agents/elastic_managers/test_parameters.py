"""What managers of elastic fleets refuse."""

import pytest

from servegym.agents.elastic_managers import MANAGERS, make_elastic_manager
from servegym.agents.published import publication_of
from servegym.costmodels.errors import InputError
from servegym.envs.sim.elastic.simulate import simulate_elastic
from tests.envs.sim.elastic.fleets import fleet, workload


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("loongserve", {"max_requests": 0}, "elastic_manager.max_requests = 0: must be at least 1"),
        ("loongserve", {"max_prefill_s": 0.0}, "elastic_manager.max_prefill_s = 0.0: must be above 0"),
        ("loongserve", {"out_of_order": -1}, "elastic_manager.out_of_order = -1: must be at least 0"),
        ("fixed_parallelism", {"degree": 0}, "elastic_manager.degree = 0: must be at least 1"),
        ("fixed_parallelism", {"scale_up": True}, "elastic_manager fixed_parallelism: "),
        ("vllm", {}, "elastic_manager = vllm: must be one of loongserve, fixed_parallelism"),
    ],
)
def test_values_out_of_range_are_refused(name: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        make_elastic_manager(name, **given)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("fixed_parallelism", {"degree": 3}, "elastic_manager.degree = 3: must divide the number of inst"),
        (
            "fixed_parallelism",
            {"max_requests": 513},
            "elastic_manager.max_requests = 513: must be at most 512",
        ),
        ("loongserve", {"max_requests": 513}, "elastic_manager.max_requests = 513: must be at most 512"),
    ],
)
def test_what_does_not_fit_the_fleet_is_refused(name: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        simulate_elastic(
            fleet(4), workload((0.0, 10, 2)), make_elastic_manager(name, **{"max_requests": 8, **given})
        )
    assert said in str(error.value)


@pytest.mark.parametrize("name", MANAGERS)
def test_every_manager_has_its_name_and_a_source(name: str) -> None:
    publication = publication_of(MANAGERS[name])
    assert make_elastic_manager(name).name == name
    assert publication.family == "elastic_manager"
    assert publication.source
    assert publication.complexity.startswith("O(")
