"""One instance as an engine without sequence parallelism: the same times, however a prompt is cut."""

import numpy as np
import pytest

from servegym.costmodels.elastic.cost import attention_seconds, linear_elastic_cost, master_seconds
from servegym.costmodels.elastic.presets import load_elastic_cost
from servegym.costmodels.elastic.single import single_instance_cost
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from tests.reference.cost import iteration_s

SEQS = 64


@pytest.fixture(scope="module", params=[1, 8])
def group(request):
    return load_elastic_cost("lwm_7b", "a800_sxm", request.param, 1, 1, max_requests=SEQS)


@pytest.fixture(scope="module")
def single(group):
    return single_instance_cost(group, 600_000)


def test_prompts_take_what_the_law_says(group, single):
    constant_s, per_token_s, per_token_squared_s = group.prefill_s[0, 1]
    for lengths in ([1], [100], [500_000], [7, 3000, 40_000]):
        expected = constant_s + sum(per_token_s * n + per_token_squared_s * n * n for n in lengths)
        found = iteration_s(single, [(n, 0) for n in lengths], 0, 0, len(lengths))
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "chunk, history", [(1, 0), (256, 0), (256, 512), (2048, 100_000), (100_000, 400_000)]
)
def test_chunks_take_their_part_of_a_prompt(group, single, chunk, history):
    constant_s, per_token_s, per_token_squared_s = group.prefill_s[0, 1]
    squares = (history + chunk) ** 2 - history**2
    expected = constant_s + per_token_s * chunk + per_token_squared_s * squares
    assert iteration_s(single, [(chunk, history)], 0, 0, 1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decodes, kv_tokens", [(1, 1), (1, 450_000), (7, 9000), (64, 64_000)])
def test_decodes_take_what_those_of_a_lone_member_take(group, single, decodes, kv_tokens):
    expected = master_seconds(group, decodes) + attention_seconds(group, decodes, kv_tokens)
    assert iteration_s(single, [], decodes, kv_tokens, decodes) == pytest.approx(expected, rel=1e-12)


def test_decodes_beside_a_chunk_add_to_it(single):
    alone = iteration_s(single, [(256, 0)], 0, 0, 1)
    few, many = (iteration_s(single, [(256, 0)], n, 1000 * n, n + 1) for n in (4, 40))
    assert alone < few < many
    assert few < alone + iteration_s(single, [], 4, 4000, 4)  # launches are waited for once


def test_an_engine_adds_its_own_work(group, single):
    slower = single_instance_cost(group, 1000, engine_s=0.011)
    for chunks, decodes in (([(256, 0)], 0), ([(256, 0), (9, 9)], 4), ([], 4)):
        more = iteration_s(slower, chunks, decodes, 4000, 5) - iteration_s(single, chunks, decodes, 4000, 5)
        assert more == pytest.approx(0.011)


def test_constant_decodes():
    iteration = linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=8, overhead_s=1e-3)
    cost = linear_elastic_cost(2, per_token_s=1e-3, decode_s=0.022, iteration=iteration)
    single = single_instance_cost(cost, 1000)
    np.testing.assert_allclose([iteration_s(single, [], b, 9 * b, b) for b in (1, 8)], 0.022, rtol=1e-12)


def test_refuses_what_it_cannot_hold():
    iteration = linear_iteration_cost(max_num_batched_tokens=8, max_num_seqs=8, overhead_s=1e-3)
    with pytest.raises(InputError, match="an iteration of 2 decodes .* must be at least 0.002 s"):
        single_instance_cost(linear_elastic_cost(1, per_token_s=1e-3, iteration=iteration), 1000)
    with pytest.raises(InputError, match="max_num_batched_tokens is 7, must be at least the 8 requests"):
        single_instance_cost(linear_elastic_cost(1, iteration=iteration), 7)
