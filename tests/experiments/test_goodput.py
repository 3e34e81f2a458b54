"""The command `servegym goodput`."""

from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

ONE_BY_ONE = (
    "scenario=resnet50_8gpu",
    "scenario.models=[{name: a, alpha_ms: 0, beta_ms: 10, slo_ms: 35, max_batch: 1}]",
    "scenario.fleet.num_gpus=1",
    "scenario.workload.arrivals=constant",
    "scenario.workload.rate_rps=30",
)
"""A GPU that takes 10 ms for each request, and requests at equal distances: 100 a second can be served."""

LLM = (
    "scenario=generated_1xh100",
    "scenario.objective.slo_ttft_s=0.2",
    "requests=100",
    "seeds=2",
    "tolerance=0.05",
)


@pytest.mark.usefixtures("folder")
def test_goodput_of_one_server_is_its_service_rate(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("requests=300", "seeds=[3,5]", "policy=symphony", "policy.margin_s=0")
    answer = answer_of(capsys, "goodput", *ONE_BY_ONE, *words)
    assert answer["seeds"] == [3, 5]
    assert answer["requests"] == 300
    assert answer["scenario"] == "resnet50_8gpu"
    assert (answer["policy"]["name"], answer["policy"]["margin_s"]) == ("symphony", 0)
    low, high = answer["interval"]
    assert 100 <= low <= answer["goodput_rps"] <= high < 105  # 1 % may be lost, and a few wait at the end
    assert 0 < answer["bad_share"] <= 0.01
    assert answer["reason"] is None
    strict = answer_of(capsys, "goodput", *ONE_BY_ONE, *words, "bad_share=0")
    assert strict["goodput_rps"] < low
    assert strict["bad_share"] == 0


@pytest.mark.usefixtures("folder")
def test_a_policy_that_never_keeps_its_promise_has_no_goodput(capsys: pytest.CaptureFixture[str]) -> None:
    """Bursts come all but at once at any mean rate, and only the first of each can be served in time."""
    bursts = ("scenario.workload.arrivals=gamma", "scenario.workload.shape=0.01")
    at_once = "scenario.models=[{name: a, alpha_ms: 0, beta_ms: 10, slo_ms: 11, max_batch: 1}]"
    words = ("requests=50", "seeds=2", "policy=symphony")
    answer = answer_of(capsys, "goodput", *ONE_BY_ONE, at_once, *bursts, *words)
    assert answer["goodput_rps"] == 0
    assert answer["interval"] == [0, 0]
    assert answer["bad_share"] is None
    assert (
        "more than 0.01 of the requests are bad at every rate tried, down to 0.0293 requests/s"
        in answer["reason"]
    )


@pytest.mark.usefixtures("folder")
def test_people_read_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["goodput", *ONE_BY_ONE, "requests=100", "seeds=2", "policy=symphony"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("symphony on resnet50_8gpu: 1")
    assert "with at most 1.00% bad; 2 seeds of 100 requests" in shown


@pytest.mark.compiled
@pytest.mark.usefixtures("folder")
def test_routers_and_schedulers_of_llm_fleets(capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, "goodput", *LLM, "policy=jsq", "bad_share=0.1")
    assert answer["policy"] == "jsq"
    assert answer["goodput_rps"] > 0
    assert answer["bad_share"] <= 0.1
    looser = answer_of(
        capsys, "goodput", *LLM, "policy=jsq", "bad_share=0.1", "scenario.objective.slo_ttft_s=0.4"
    )
    assert looser["goodput_rps"] > answer["goodput_rps"]
    classes = "scenario.workload.clients.priority_shares=[0.5,0.5]"
    both = answer_of(capsys, "goodput", *LLM, classes, "policy=jsq+priority", "bad_share=0.1")
    assert both["policy"] == "jsq+priority"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words, message",
    [
        (("scenario=resnet50_8gpu",), "policy: no choice made: must be one of symphony, "),
        (("scenario=resnet50_8gpu", "policy=jsq"), "policy: jsq: must be one of symphony, "),
        (("scenario=generated_1xh100",), "policy: no choice made: must be one of random, "),
        (("scenario=generated_1xh100", "policy=symphony"), "policy: symphony: must be one of random, "),
        ((*LLM, "policy=jsq", "requests=10000000"), "requests = 10000000: must be at most "),
        (("policy=symphony",), "scenario: no choice made"),
        (("scenario=inoue_v100", "policy=symphony"), "scenario = inoue_v100: has no limits to keep"),
        ((*ONE_BY_ONE, "policy=symphony", "policy.condition=now"), "policy.condition = now: must be one of"),
        ((*ONE_BY_ONE, "policy=symphony", "policy.margin_s=x"), "policy.margin_s = x: must be of type float"),
        ((*ONE_BY_ONE, "policy=symphony", "policy.margins=1"), "policy.margins: no such key; did you mean"),
        ((*ONE_BY_ONE, "policy=symphony", "bad_share=1"), "bad_share = 1.0: must be at least 0 and below 1"),
        ((*ONE_BY_ONE, "policy=symphony", "requests=1"), "requests = 1: must be null, or at least 2"),
        ((*ONE_BY_ONE, "policy=symphony", "seeds=0"), "seeds = 0"),
        ((*ONE_BY_ONE, "policy=symphony", "tolerance=0"), "tolerance = 0.0"),
        (
            (*ONE_BY_ONE, "policy=symphony", "requests=2", "scenario.models.0.slo_ms=1000"),
            "keep the limits even if all come at once",
        ),
    ],
)
def test_bad_input_is_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, "goodput", *words)


def test_the_folder_stays_empty(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer_of(capsys, "goodput", *ONE_BY_ONE, "requests=20", "seeds=1", "policy=symphony")
    assert list(folder.iterdir()) == []
