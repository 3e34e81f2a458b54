"""`servegym bounds`: bounds beside the routers that are measured against them."""

from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of


@pytest.mark.compiled
def test_gaps_are_of_the_best_routers(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "bounds", *SMALL_SCENARIO, "routers=[jsq,round_robin]", "seeds=[0,2]")
    assert list(folder.iterdir()) == []
    routers = answer["routers"]
    assert set(routers) == {"jsq", "round_robin"}
    for name, limit in answer["bounds"].items():
        figures = [each[name] for each in routers.values()]
        if name == "goodput_rps":
            assert answer["gap"][name] == pytest.approx(limit / max(figures))
        else:
            assert answer["gap"][name] == pytest.approx(min(figures) / limit)
        assert answer["gap"][name] >= 1
    one = answer_of(capsys, "simulate", *SMALL_SCENARIO, "router=jsq", "seed=0")["metrics"]
    two = answer_of(capsys, "simulate", *SMALL_SCENARIO, "router=jsq", "seed=2")["metrics"]
    mean_s = (one["mean_latency_s"] + two["mean_latency_s"]) / 2
    assert routers["jsq"]["mean_latency_s"] == pytest.approx(mean_s)


@pytest.mark.compiled
def test_table(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["bounds", *SMALL_SCENARIO, "routers=[jsq]"]) == 0
    shown = capsys.readouterr().out
    assert "mean latency" in shown and "jsq" in shown and "Least load" in shown
    assert main(["bounds", *SMALL_SCENARIO, "routers=[]"]) == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (("scenario=sessions_8xh100",), "servegym bounds has equal replicas"),
        ((*SMALL_SCENARIO, "seeds=[]"), "seeds = []: must be one or more numbers"),
        ((*SMALL_SCENARIO, "routers=[jsqq]"), "routers: jsqq: must be one of"),
        ((*SMALL_SCENARIO, "scenario.engine.prefix_caching=true"), "engine.prefix_caching = true"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, "bounds", *words)
