"""`servegym goodput` with scenarios of elastic sequence parallelism."""

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

SMALL = ("scenario=sharegpt_8a800", "requests=80", "seeds=2", "tolerance=0.1", "policy=vllm")


@pytest.mark.compiled
@pytest.mark.usefixtures("folder")
def test_lines_are_kept_up_to_a_rate(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ("scenario.slo.total_s=0.004", "scenario.slo.input_s=0.0008", "scenario.slo.output_s=0.014")
    answer = answer_of(capsys, "goodput", *SMALL, *lines, "scenario.slo.ttft_least_s=0.05")
    assert list(answer["lines"]) == ["total_s", "input_s", "output_s", "attainment"]
    assert (answer["scenario"], answer["seeds"], answer["requests"]) == ("sharegpt_8a800", [0, 1], 80)
    for found in answer["lines"].values():
        low, high = found["interval"]
        assert low <= found["goodput_rps"] <= high
        assert len(found["rates_rps"]) == 2
    laxer = answer_of(capsys, "goodput", *SMALL, *lines, "scenario.slo.input_s=0.002")
    assert laxer["lines"]["input_s"]["goodput_rps"] > answer["lines"]["input_s"]["goodput_rps"] > 0


@pytest.mark.compiled
@pytest.mark.usefixtures("folder")
def test_lines_that_are_never_and_always_kept_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("goodput", *SMALL, "scenario.slo.total_s=0.00001", "scenario.slo.output_s=100")
    answer = answer_of(capsys, *words)
    total, output = answer["lines"]["total_s"], answer["lines"]["output_s"]
    assert (total["goodput_rps"], output["goodput_rps"]) == (0, None)
    assert total["reason"].startswith("not kept at any rate tried, down to ")
    assert output["reason"].startswith("kept at every rate tried, up to ")
    assert main([*words]) == 0
    assert "output_s: kept at every rate tried" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words, message",
    [
        (("policy=symphony",), "policy = symphony: must be one of chunked_prefill, "),
        (("requests=1",), "requests = 1: must be null, or at least 2"),
        (("tolerance=0",), "tolerance = 0.0: must be above 0"),
        (("seeds=0",), "seeds = 0"),
        (("bad_share=0.1",), "bad_share: no such key"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert message in error_of(capsys, "goodput", *SMALL, *words)
