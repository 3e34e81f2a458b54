"""The command `servegym place`."""

from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

SMALL = (
    "scenario=generated_8xh100",
    "scenario.workload.test_s=60",
    "scenario.objective.slo_ttft_s=0.3",
    "gpus=2",
    "seeds=2",
)


@pytest.mark.compiled
def test_best_placement_is_first_and_can_be_simulated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = answer_of(capsys, "place", *SMALL)
    rates = [each["rps_per_gpu"] for each in answer["placements"]]
    assert rates == sorted(rates, reverse=True)
    assert {each["system"] for each in answer["placements"]} == {"distserve", "splitwise", "colocated"}
    assert set(answer["degrees"]) == {"1", "2"}
    first = answer["placements"][0]
    assert first["low"] <= first["goodput_rps"] <= first["high"]
    words = [
        "simulate",
        SMALL[0],
        "scenario.fleet.replicas=null",
        answer["best"],
        f"router={first['router']}",
        "scenario.workload.test_s=20",
        f"out={tmp_path / 'out'}",
    ]
    assert main(words) == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words, message",
    [
        (("gpus=0",), "gpus = 0"),
        (("tensor_parallel=[4]",), "tensor_parallel = 4: must be at most gpus = 2"),
        (("tensor_parallel=[1,1]",), "different degrees"),
        (("share=0",), "share = 0"),
        (("seeds=[]",), "seeds"),
        (("scenario.fleet.failures=[{replica:0,time_s:1}]",), "scenario.fleet.failures"),
        (("scenario.fleet.model=llama_3_1_70b", "gpus=1"), "no degree of tensor parallelism fits"),
    ],
)
def test_bad_input_is_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, "place", *SMALL, *words)
