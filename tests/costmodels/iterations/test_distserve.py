"""DistServe's clock: the tables give its formulas back."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import decode_seconds, prefill_attention_seconds, step_seconds
from servegym.costmodels.iterations.distserve import CLOCKS, distserve_iteration_cost


@pytest.mark.parametrize("engine, model, tensor_parallel", list(CLOCKS))
def test_prefills_and_decodes_take_what_the_formulas_say(
    engine: str, model: str, tensor_parallel: int
) -> None:
    cost = distserve_iteration_cost(
        engine, model, tensor_parallel, max_num_batched_tokens=2048, max_num_seqs=200
    )
    clock = CLOCKS[engine, model, tensor_parallel]
    for prompt in (1, 17, 500, 2048):
        seconds = step_seconds(cost, prompt, 1) + prefill_attention_seconds(cost, prompt, 0)
        assert seconds == pytest.approx(clock.prefill_s(np.array([prompt])), rel=1e-9)
    for decodes, kv_tokens in ((1, 100), (94, 40_000), (95, 40_000), (200, 9_000)):
        wanted = float(clock.decode_s(np.array(decodes), np.array(kv_tokens)))
        assert decode_seconds(cost, decodes, kv_tokens) == pytest.approx(wanted, rel=1e-9)


def test_prefill_of_two_prompts_differs_by_at_most_what_it_says() -> None:
    for (engine, model, degree), clock in CLOCKS.items():
        cost = distserve_iteration_cost(engine, model, degree, max_num_batched_tokens=2048, max_num_seqs=200)
        seconds = step_seconds(cost, 900, 2) + sum(prefill_attention_seconds(cost, p, 0) for p in (300, 600))
        assert 0 <= seconds - clock.prefill_s(np.array([300, 600])) + 1e-12 < 3.4e-3


def test_chunks_of_a_prompt_take_what_the_prompt_takes() -> None:
    cost = distserve_iteration_cost("distserve", "opt_13b", 1, max_num_batched_tokens=2048, max_num_seqs=64)
    whole = prefill_attention_seconds(cost, 1500, 0)
    chunks = prefill_attention_seconds(cost, 700, 0) + prefill_attention_seconds(cost, 800, 700)
    assert chunks == pytest.approx(whole, rel=2e-3)


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="opt_66b TP1 was not measured"):
        distserve_iteration_cost("distserve", "opt_66b", 1, max_num_batched_tokens=2048, max_num_seqs=64)
