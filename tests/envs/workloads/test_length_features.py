"""Features of requests: what a router knows on arrival, and nothing of the request's own output."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.envs.workloads import SloClass, Workload
from servegym.envs.workloads.length_features import (
    CLASS_BUCKETS,
    FEATURES,
    GROUPS,
    length_features,
    previous_requests,
)

BLOCK = 10


def plain(num_requests=4, **columns):
    numbers = np.arange(num_requests)
    return Workload("plain", numbers * 2.0, 100 + numbers, 5 + numbers, **columns)


def prefixes(prompts, outputs, blocks):
    """Prompts of these contents in blocks of 10 tokens."""
    return Workload(
        "prefixes",
        np.arange(len(prompts)),
        prompts,
        outputs,
        prefix_ids=[block for each in blocks for block in each],
        prefix_offsets=np.cumsum([0, *map(len, blocks)]),
        prefix_block_tokens=BLOCK,
    )


def column(workload, name):
    return length_features(workload)[:, FEATURES.index(name)]


def test_a_plain_workload_says_its_prompts_and_gaps_and_nothing_else():
    features = length_features(plain())
    known = {name for name, values in zip(FEATURES, features.T, strict=True) if not np.isnan(values).any()}
    assert known == {*GROUPS["prompt"], *GROUPS["arrival"]}
    np.testing.assert_allclose(column(plain(), "log_prompt"), np.log1p([100, 101, 102, 103]))
    np.testing.assert_allclose(column(plain(), "log_gap"), np.log1p([0, 2, 2, 2]))


def test_what_clients_ask_is_known_where_the_workload_has_it():
    workload = plain(
        priority=[0, 1, 2, 0],
        slo_class=[1, 0, 1, 0],
        slo_classes=(SloClass("a", 1.0, 1.0, 1.0), SloClass("b", 1.0, 1.0, 1.0)),
        image_tokens=[0, 7, 0, 3],
        max_output_tokens=[99, 99, 9, 9],
    )
    assert column(workload, "priority").tolist() == [0, 1, 2, 0]
    assert column(workload, "slo_class_1").tolist() == [1, 0, 1, 0]
    classes = [column(workload, f"slo_class_{k}") for k in range(CLASS_BUCKETS)]
    assert np.sum(classes, axis=0).tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(column(workload, "log_image"), np.log1p([0, 7, 0, 3]))
    np.testing.assert_allclose(column(workload, "log_limit"), np.log1p([99, 99, 9, 9]))


def test_sessions_tell_the_turn_and_the_outputs_before():
    workload = Workload(
        "sessions",
        np.arange(4.0),
        [10, 10, 40, 100],
        [20, 3, 30, 5],
        parent=[-1, -1, 0, 2],
        think_s=np.ones(4),
    )
    assert column(workload, "is_follow_up").tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(column(workload, "turn"), np.log1p([0, 0, 1, 2]))
    np.testing.assert_allclose(
        column(workload, "log_previous_output"), [np.nan, np.nan, np.log1p(20), np.log1p(30)]
    )
    mean = np.log1p([20, 30]).mean()
    np.testing.assert_allclose(column(workload, "mean_log_output"), [np.nan, np.nan, np.log1p(20), mean])
    np.testing.assert_allclose(column(workload, "log_new"), [np.nan, np.nan, np.log1p(10), np.log1p(30)])


def test_prompts_that_contain_an_earlier_prompt_and_its_output_follow_it_up():
    """A system prompt (block 0) alone makes no conversation, nor does a prompt too short for the output."""
    workload = prefixes(
        prompts=[25, 25, 45, 26, 70],
        outputs=[8, 8, 5, 8, 5],
        blocks=[[0, 1, 2], [0, 3, 4], [0, 1, 5, 6, 7], [0, 3, 8], [0, 1, 5, 6, 9, 10, 11]],
    )
    previous, shared = previous_requests(workload)
    assert previous.tolist() == [-1, -1, 0, -1, 2]
    assert shared.tolist() == [0, 10, 20, 20, 40]


def test_the_system_prompt_of_two_conversations_starts_none():
    """Request 2 shares with request 1, which is one whole block long, only what request 0 has as well."""
    workload = prefixes([12, 12, 40], [1, 1, 1], [[0, 1], [0, 2], [0, 3, 4, 5]])
    previous, _ = previous_requests(replace(workload, prompt_tokens=[25, 12, 40]))
    assert previous.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("request_id", range(5))
def test_a_requests_own_output_is_in_no_feature_of_it_or_of_earlier_ones(request_id):
    blocks = [[0, 1, 2], [0, 3, 4], [0, 1, 5, 6, 7], [0, 3, 8], [0, 1, 5, 6, 9, 10, 11]]
    workload = prefixes([25, 25, 45, 26, 70], [8, 8, 5, 8, 5], blocks)
    outputs = workload.output_tokens.copy()
    outputs[request_id] += 1
    changed = length_features(replace(workload, output_tokens=outputs))
    np.testing.assert_array_equal(changed[: request_id + 1], length_features(workload)[: request_id + 1])
