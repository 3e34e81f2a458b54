"""What schedulers refuse, and what they need."""

import pytest

from servegym.agents.published import publication_of
from servegym.agents.schedulers import SCHEDULERS, make_scheduler
from servegym.costmodels.errors import InputError


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("slack", {"s_per_output_token": -0.1}, "scheduler.s_per_output_token = -0.1: must be at least 0"),
        ("larry", {"headroom": 0.3}, "scheduler.headroom = 0.3: must be from 0 to 0.2"),
        ("larry", {"wait_s": 0.0}, "scheduler.wait_s = 0.0: must be above 0 and finite"),
        ("multi_bin", {"num_bins": 0}, "scheduler.num_bins = 0: must be at least 1"),
        (
            "conservative",
            {"reserved_output_share": 1.5},
            "scheduler.reserved_output_share = 1.5: must be from 0 to 1",
        ),
        ("ssjf", {"max_wait_s": 0.0}, "scheduler.max_wait_s = 0.0: must be above 0 and finite"),
        ("learning_to_rank", {"starvation_iterations": -1}, "must be at least 0"),
        ("learning_to_rank", {"quantum_iterations": 0}, "must be at least 1"),
        ("trail", {"c": 1.01}, "scheduler.c = 1.01: must be from 0 to 1"),
        ("trail", {"c": float("nan")}, "scheduler.c = nan: must be from 0 to 1"),
        ("fastserve", {"quantum_s": 0.0}, "scheduler.quantum_s = 0.0: must be above 0 and finite"),
        ("fastserve", {"num_levels": 0}, "scheduler.num_levels = 0: must be at least 1"),
        ("vtc", {"w_q": -1.0}, "scheduler.w_q = -1.0: must be at least 0 and finite"),
        ("srpt", {"c": 0.5}, "scheduler srpt: "),
    ],
)
def test_values_out_of_range_are_refused(name: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        make_scheduler(name, **given)
    assert said in str(error.value)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^scheduler = sjff: must be one of sjf, priority, edf"):
        make_scheduler("sjff")


def test_needs() -> None:
    assert {name: set(make_scheduler(name).needs) for name in SCHEDULERS} == {
        "sjf": {"predictions"},
        "priority": {"priorities"},
        "edf": {"slo_classes"},
        "slack": {"slo_classes", "predictions"},
        "larry": set(),
        "multi_bin": {"predictions"},
        "conservative": set(),
        "srpt": {"predictions"},
        "ssjf": {"predictions"},
        "learning_to_rank": {"predictions"},
        "trail": {"predictions"},
        "fastserve": set(),
        "vtc": {"tenants"},
    }


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_has_its_name_and_a_source(name: str) -> None:
    scheduler, publication = make_scheduler(name), publication_of(SCHEDULERS[name])
    assert scheduler.name == name
    assert publication.family == "scheduler"
    assert publication.source
    assert publication.complexity.startswith("O(")
