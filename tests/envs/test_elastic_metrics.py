"""Metrics of made-up runs, against hand-made figures and the definitions of LoongServe's artifact."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from servegym.envs.elastic_metrics import in_time, normalised_latencies, of_lines, summarise_elastic, tpot_s
from servegym.envs.elastic_scenario import load_elastic_scenario

SCENARIO = load_elastic_scenario("sharegpt_8a800")


def run(*requests, rejected=()):
    """Requests as (arrival, first token, finish, prompt, output); None for a time that never came."""
    columns = [
        np.array([math.nan if v is None else v for v in column]) for column in zip(*requests, strict=True)
    ]
    arrival_s, first_token_s, finish_s, prompt, output = columns if columns else np.zeros((5, 0))
    return SimpleNamespace(
        arrival_s=arrival_s,
        first_token_s=first_token_s,
        finish_s=finish_s,
        prompt_tokens=prompt.astype(np.int64),
        output_tokens=output.astype(np.int64),
        rejected=np.isin(np.arange(len(arrival_s)), rejected),
        duration_s=float(np.nanmax(finish_s, initial=0.0)),
    )


def test_normalised_latencies_of_one_request():
    # 8 s for 100 + 20 tokens; 2 s for 100 tokens; 6 s for the 19 tokens after the first
    latencies = normalised_latencies(run((1.0, 3.0, 9.0, 100, 20)))
    assert {name: values.tolist() for name, values in latencies.items()} == {
        "total_s": [8 / 120],
        "input_s": [2 / 100],
        "output_s": [6 / 19],
    }


def test_a_single_token_has_no_time_after_the_first():
    assert tpot_s(run((0.0, 2.0, 2.0, 10, 1))).tolist() == [0.0]


def test_means_are_those_of_the_artifact_where_all_end():
    rng = np.random.default_rng(0)
    requests = [
        (a, a + f, a + f + d, int(p), int(o))
        for a, f, d, p, o in zip(
            np.cumsum(rng.random(50)),
            rng.random(50),
            rng.random(50),
            rng.integers(1, 900, 50),
            rng.integers(2, 90, 50),
            strict=True,
        )
    ]
    summary = summarise_elastic(run(*requests), SCENARIO)
    means = {"total": [], "input": [], "output": []}
    for arrival, first, finish, prompt, output in requests:
        means["total"].append((finish - arrival) / (prompt + output))
        means["input"].append((first - arrival) / prompt)
        means["output"].append((finish - first) / (output - 1))
    for name, values in means.items():
        assert summary[f"mean_{name}_s"] == pytest.approx(np.mean(values))
        assert summary[f"over_line_{name}"] == pytest.approx(
            np.mean(values) / {"total": 0.092, "input": 0.020, "output": 0.320}[name]
        )


def test_in_time_needs_both_limits():
    limit = float(SCENARIO.ttft_limit_s(100))
    assert limit == 15.0  # a short prompt has the least
    served = run(
        (0.0, 15.0, 16.0, 100, 21),  # both just kept: 1 s for 20 tokens
        (0.0, 15.01, 16.0, 100, 21),
        (0.0, 1.0, 2.1, 100, 21),
        (0.0, 60.0, 61.0, 100_000, 100),  # a long prompt has longer
        (0.0, 68.0, 69.0, 100_000, 100),
    )
    assert 60 < SCENARIO.ttft_limit_s(100_000) < 68
    assert in_time(served, SCENARIO).tolist() == [True, False, False, True, False]
    assert summarise_elastic(served, SCENARIO)["attainment"] == 0.4


def test_rejected_and_unserved_requests_are_never_in_time_and_keep_no_line():
    served = run(
        (0.0, 0.1, 0.2, 100, 3),
        (0.0, None, None, 100, 3),
        (0.0, 0.1, None, 100, 3),  # unserved after its first token
        rejected=[1],
    )
    summary = summarise_elastic(served, SCENARIO)
    assert in_time(served, SCENARIO).tolist() == [True, False, False]
    assert [summary[f"num_{name}"] for name in ("requests", "finished", "rejected", "unserved")] == [
        3,
        1,
        1,
        1,
    ]
    assert summary["attainment"] == pytest.approx(1 / 3)
    assert set(of_lines(served, SCENARIO).values()) == {math.inf}
    assert summary["mean_input_s"] == pytest.approx(0.1 / 100)  # of the one that ended


def test_lines_are_those_of_the_scenario():
    served = run((0.0, 1.0, 2.0, 100, 3))
    assert list(of_lines(served, SCENARIO)) == ["total_s", "input_s", "output_s"]
    assert of_lines(served, SCENARIO)["input_s"] == pytest.approx(0.01 / 0.020)
    assert of_lines(served, load_elastic_scenario("zipf_1_0_8a800")) == {}


def test_nothing_came():
    summary = summarise_elastic(run(), SCENARIO)
    assert summary["attainment"] == 1.0 and summary["good_rps"] == 0.0
    assert math.isnan(summary["mean_total_s"]) and math.isnan(summary["p99_ttft_s"])
    assert set(of_lines(run(), SCENARIO).values()) == {0.0}


def test_nobody_is_served():
    summary = summarise_elastic(run((0.0, None, None, 10, 3), rejected=[0]), SCENARIO)
    assert summary["attainment"] == 0.0 and math.isnan(summary["mean_latency_s"])
    assert summary["over_line_total"] == math.inf
