"""The comparison with other simulators: the trace is theirs, and the figures that the report claims hold."""

import pytest

from servegym.costmodels.errors import InputError
from servegym.experiments.validation.peers import PEERS_MS, show, trace, validate_peers


def test_the_trace_is_the_one_the_peers_ran() -> None:
    workload = trace()
    assert workload.num_requests == 1000
    assert workload.arrival_s[0] == 0.0
    assert workload.duration_s == pytest.approx(253.0, abs=0.05)
    assert workload.prompt_tokens.mean() == pytest.approx(488.4, abs=0.05)
    assert workload.output_tokens.sum() == 160_177


def test_tpot_and_latency_are_near_the_peers_and_errors_are_to_the_nearer() -> None:
    answer = validate_peers("roofline")
    for key in ("tpot", "e2e"):
        assert abs(answer["error_to_nearer"][key]) < 0.07
    for key, error in answer["error_to_nearer"].items():
        ours = answer["ours_ms"][key]
        assert min(abs(ours / peer[key] - 1) for peer in PEERS_MS.values()) == abs(error)
    assert answer["ttft_one_iteration_later_ms"] == answer["ours_ms"]["ttft"] + answer["ours_ms"]["tpot"]
    show(answer)


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(InputError, match="clock = sundial: must be one of roofline, calibrated, measured"):
        validate_peers("sundial")
