"""The committed coefficients: near LoongServe's errors and figures, refused where there are none."""

import json

import numpy as np
import pytest

from servegym.costmodels.elastic.presets import (
    Degree,
    elastic_folder,
    load_elastic_cost,
    load_prefill_laws,
)
from servegym.costmodels.errors import InputError
from servegym.costmodels.transfer import Link

LWM = ("lwm_7b", "a800_sxm")


def test_laws_on_one_node_err_as_loongserve_says():
    """Less than 10 % (Wu et al., section 7.5)."""
    for file in elastic_folder().iterdir():
        for row in json.loads(file.read_text())["prefill"]:
            if not row["crosses"]:
                assert max(row["error"]["mean"], row["error_between"]["mean"]) < 0.1, row


def test_how_much_longer_100_times_the_prompt_takes():
    """Wu et al., section 2: 105.97 times. With tensor parallelism 8, by the plots of their artifact."""
    law = load_prefill_laws(*LWM)[Degree(8, 1, False)]
    assert law.seconds([100_000]) / law.seconds([1000]) == pytest.approx(105.97, rel=0.1)


def test_more_instances_are_faster_for_long_prompts():
    cost = load_elastic_cost(*LWM, 2, 4, 4, max_requests=8)
    for squares in (100_000**2, 500_000**2):
        times = cost.prefill_s[0, 1:] @ [1.0, squares**0.5, squares]
        assert (np.diff(times) < 0).all()


def test_nodes():
    """Within a node and between; what cannot be is what is beside it."""
    near = load_elastic_cost(*LWM, 2, 4, 4, max_requests=8).prefill_s
    far = load_elastic_cost(*LWM, 2, 8, 4, max_requests=8).prefill_s
    np.testing.assert_array_equal(near[0], near[1])
    np.testing.assert_array_equal(far[0, :5], near[0])
    np.testing.assert_array_equal(far[:, 1], near[:, 1])
    np.testing.assert_array_equal(far[0, 5:], far[1, 5:])
    assert (far[1, 2:5, 1] > far[0, 2:5, 1]).all()


def test_links():
    cost = load_elastic_cost(*LWM, 2, 2, 1, max_requests=8, node_link=Link(1e9), far_link=Link(1e8, 0.5))
    np.testing.assert_allclose(cost.migrate_s_per_token, [2.62144e-4, 2.62144e-3])  # 512 KiB, halved
    np.testing.assert_allclose(cost.migrate_latency_s, [0, 0.5])
    assert cost.exchange_s[1, 1] - cost.exchange_s[0, 1] > 32 * 2 * 0.5
    assert load_elastic_cost(*LWM, 2, 2, 1, max_requests=8, decode_s=0.022).decode_s == 0.022


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("lwm_7b", "v100", 2, 4, 4), "no coefficients of lwm_7b on v100: there are .*lwm_7b-a800_sxm"),
        ((*LWM, 3, 2, 2), "tensor_parallel is 3, must be one of 1, 2, 4, 8"),
        ((*LWM, 2, 5, 5), "sequence parallelism 5 of tensor_parallel 2 in one node .* at most 4"),
        ((*LWM, 2, 9, 4), "sequence parallelism 9 of tensor_parallel 2 in more than one node .* at most 8"),
        ((*LWM, 2, 0, 4), "instances is 0, must be at least 1"),
        ((*LWM, 2, 4, 0), "instances_per_node is 0, must be at least 1"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        load_elastic_cost(*arguments)
