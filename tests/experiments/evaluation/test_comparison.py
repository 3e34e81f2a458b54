"""Policies are compared on the same requests, and what is known of the toy results is found."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.envs.metrics import SloLimits
from servegym.experiments.evaluation.comparison import METRICS, TIMES, Evaluation
from tests.experiments.toy_evaluation import results, toy_evaluation


def test_known_changes_are_found_and_judged() -> None:
    evaluation = toy_evaluation(slow=2.0, fast=1.0, also_slow=2.0)
    found = {(one["policy"], one["against"], one["metric"]): one for one in evaluation.comparisons}
    assert len(found) == 3 * 2 * len(TIMES)
    for metric in ("mean_ttft_s", "p99_ttft_s"):
        faster, slower = found["fast", "slow", metric], found["slow", "fast", metric]
        assert faster["change"] == pytest.approx(-0.5)
        assert faster["verdict"] == "better"
        assert slower["change"] == pytest.approx(1.0)
        assert slower["verdict"] == "worse"
        same = found["also_slow", "slow", metric]
        assert (same["change"], same["low"], same["high"], same["verdict"]) == (0, 0, 0, "undecided")
    assert found["fast", "slow", "mean_tpot_s"]["change"] == pytest.approx(0.0, abs=1e-9)


def test_other_requests_are_refused() -> None:
    ours, theirs = results(0, 1.0), results(0, 1.0)
    longer = replace(theirs, output_tokens=theirs.output_tokens + 1)
    with pytest.raises(ValueError, match="policy b, seed 0: not the requests of a"):
        Evaluation([0, 1], "a", {"a": [ours, ours], "b": [longer, ours]}, [SloLimits(1.0, 1.0)] * 2)


def test_rows_hold_every_number_once() -> None:
    evaluation = toy_evaluation(slow=2.0, fast=1.0)
    header, *rows = evaluation.result_rows()
    assert header == ("policy", "seed", "metric", "value")
    values = {row[:3]: row[3] for row in rows}
    assert len(values) == len(rows) == 2 * 5 * len(evaluation.summaries["slow"])
    run = evaluation.results["fast"][3]
    assert values["fast", 3, "mean_ttft_s"] == np.mean(run.first_token_s - run.arrival_s)

    header, *rows = evaluation.summary_rows()
    assert [row[:2] for row in rows] == [
        (policy, metric) for policy in ("slow", "fast") for metric in METRICS
    ]
    by_key = {row[:2]: dict(zip(header, row, strict=True)) for row in rows}
    assert by_key["slow", "mean_ttft_s"]["change"] == ""
    assert by_key["fast", "mean_ttft_s"]["change"] == pytest.approx(-0.5)
    assert by_key["fast", "mean_ttft_s"]["iqm"] == evaluation.estimates["fast"]["mean_ttft_s"].iqm
    assert by_key["fast", "preemptions_per_request"]["verdict"] == ""
