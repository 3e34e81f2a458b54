"""What schedulers of batches refuse."""

import pytest

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS, make_batch_scheduler
from servegym.agents.published import publication_of
from servegym.costmodels.errors import InputError


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "clockwork",
            {"sizes": (2, 4)},
            "batch_scheduler.sizes = (2, 4): must be whole numbers that ascend from 1",
        ),
        ("clockwork", {"sizes": (1, 4, 2)}, "must be whole numbers that ascend from 1"),
        ("clockwork", {"sizes": (1, 2.5)}, "must be whole numbers that ascend from 1"),
        (
            "shepherd",
            {"preempt_ratio": 1.0},
            "batch_scheduler.preempt_ratio = 1.0: must be above 1 and finite",
        ),
        (
            "nexus",
            {"window_s": 0.4},
            "batch_scheduler.window_s = 0.4: must be at least beacon_s, 1.0",
        ),
        ("nexus", {"beacon_s": 0.0}, "batch_scheduler.beacon_s = 0.0: must be above 0 and finite"),
        ("clipper", {"increase": 0.0}, "batch_scheduler.increase = 0.0: must be above 0 and finite"),
        ("clipper", {"backoff": 1.1}, "batch_scheduler.backoff = 1.1: must be from 0 to 1"),
        (
            "tf_serving",
            {"timeout_s": -1.0},
            "batch_scheduler.timeout_s = -1.0: must be at least 0 and finite",
        ),
        ("tf_serving", {"max_batch": -1}, "batch_scheduler.max_batch = -1: must be at least 0"),
        ("triton", {"preferred": (0, 2)}, "must be whole numbers that ascend, from 1 or more"),
        ("triton", {"preferred": (4, 4)}, "must be whole numbers that ascend, from 1 or more"),
        ("triton", {"timeout_s": 1.0}, "batch_scheduler triton: "),
    ],
)
def test_values_out_of_range_are_refused(name: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        make_batch_scheduler(name, **given)
    assert said in str(error.value)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^batch_scheduler = clock: must be one of symphony, clockwork"):
        make_batch_scheduler("clock")


@pytest.mark.parametrize("name", BATCH_SCHEDULERS)
def test_every_scheduler_has_its_name_and_a_source(name: str) -> None:
    scheduler, publication = make_batch_scheduler(name), publication_of(BATCH_SCHEDULERS[name])
    assert scheduler.name == name
    assert publication.family == "batch_scheduler"
    assert publication.source
    assert publication.complexity.startswith("O(")
