"""`rebalancer=NAME`: running requests migrate in simulations, and when these are replayed."""

from pathlib import Path

import pytest

from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of

SCARCE = ("simulate", *SMALL_SCENARIO, "scenario.engine.num_kv_blocks=1000", "router=random")
OFTEN = (
    "rebalancer=llumnix",
    "rebalancer.every_s=0.05",
    "rebalancer.out_below=50.0",
    "rebalancer.in_above=50.0",
)


def test_migrations_are_counted_and_replayed(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    stay = answer_of(capsys, *SCARCE, "out=stay")
    move = answer_of(capsys, *SCARCE, *OFTEN, "out=move")
    assert stay["metrics"]["migrations_per_request"] == 0
    assert move["metrics"]["migrations_per_request"] > 0
    assert move["rebalancer"]["name"] == "llumnix"
    assert answer_of(capsys, "replay", "move")["max_rel_diff"] < 1e-9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rebalancer=x",), "rebalancer"),
        (
            ("rebalancer=llumnix", "rebalancer.every_s=0"),
            "rebalancer.every_s = 0: must be above 0 and finite",
        ),
        (
            ("rebalancer=llumnix", "rebalancer.max_stages=0.5"),
            "rebalancer.max_stages = 0.5: must be of type int",
        ),
    ],
)
def test_mistakes_are_named(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, *SCARCE, *words)
