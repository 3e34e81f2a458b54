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


POOLS = (
    "scenario.fleet.replicas=null",
    "scenario.fleet.pools=[{replicas: 3, role: encode}, {replicas: 1, role: prefill}, "
    "{replicas: 1, role: decode}]",
)


def test_roles_change_and_the_fleet_scales(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """An answer, and another one than with what is fixed."""
    latency_s = []
    for words in ((), ("scenario.fleet.role_switch_s=0.1", "rebalancer=epd_role_switching")):
        answer = answer_of(
            capsys,
            *SCARCE,
            *POOLS,
            *words,
            *(("rebalancer.every_s=0.1", "rebalancer.queue_above=0.5") if words else ()),
            f"out=roles{len(words)}",
        )
        latency_s.append(answer["metrics"]["mean_latency_s"])
    assert latency_s[1] < latency_s[0]
    one = ("scenario.fleet.scaling=[{time_s: 0, replicas: 1}]", "out=one")
    more = (
        "rebalancer=llumnix",
        "rebalancer.scaling=true",
        "rebalancer.every_s=0.1",
        "rebalancer.scale_turns=1",
    )
    fixed = answer_of(capsys, *SCARCE, *one)
    scaled = answer_of(capsys, *SCARCE, *one, *more, "rebalancer.scale_up_below=50.0", "out=more")
    assert scaled["metrics"]["mean_latency_s"] < fixed["metrics"]["mean_latency_s"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*POOLS, "rebalancer=epd_role_switching"),
            "scenario.fleet.role_switch_s: must be given with rebalancer",
        ),
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
