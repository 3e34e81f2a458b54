import json
from importlib import resources

import numpy as np
import pytest
from scipy import stats

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.long_context import LONG_CONTEXT, POOL, data_set, long_context_lengths

DRAWS = 50_000


def draw(name, exponent=None, n=DRAWS, seed=0):
    return long_context_lengths(name, exponent).sample(n, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("name", "shortest", "longest"),
    [("sharegpt", 4, 2_399), ("l_eval", 2_700, 210_541), ("lv_eval", 15_100, 497_300)],
)
def test_prompts_fill_the_range_that_loongserve_states(name, shortest, longest):
    # LoongServe, section 7.1: 4 to 2.3K, 2.7K to 210.5K, 15.1K to 497.3K tokens
    prompts, outputs = draw(name)
    assert shortest <= prompts.min() <= 1.05 * shortest + 4
    assert 0.97 * longest <= prompts.max() <= longest
    assert outputs.min() >= 1 and outputs.max() < 1000
    assert prompts.dtype == outputs.dtype == np.int32


def test_quantiles_keep_the_means_of_the_data_sets():
    file = resources.files("servegym.envs.workloads") / "long_context.json"
    for name, figures in json.loads(file.read_text()).items():
        if name != "lv_eval":
            prompts, outputs = draw(name)
            assert prompts.mean() == pytest.approx(figures["mean_prompt_tokens"], rel=0.02)
            assert outputs.mean() == pytest.approx(figures["mean_output_tokens"], rel=0.05)


def test_lv_eval_has_five_levels_equally_often_and_the_published_mean():
    # a level ends where the next begins: 1.513 times 16k words is 24.2k, 0.744 times 32k is 23.8k
    prompts, outputs = draw("lv_eval")
    tokens_per_word = (497_300 - 15_100) / (387_406 - 11_896)
    words = 11_896 + (prompts - 15_100) / tokens_per_word
    assert words.mean() == pytest.approx(102_380, rel=0.02)
    counts, _ = np.histogram(words, bins=[0, 24_000, 48_000, 96_000, 192_000, 400_000])
    np.testing.assert_allclose(counts / DRAWS, 0.2, atol=0.01)
    assert outputs.max() <= 64
    assert abs(stats.spearmanr(prompts, outputs).statistic) < 0.02  # the same questions in every level


def test_a_mix_takes_a_third_of_each_data_set_and_no_very_short_request():
    prompts, outputs = draw("mixed")
    assert prompts.min() >= 16 and outputs.min() >= 4
    assert (prompts <= 2_399).mean() == pytest.approx(1 / 3, abs=0.01)
    assert (prompts > 210_541).mean() == pytest.approx((draw("lv_eval")[0] > 210_541).mean() / 3, rel=0.1)
    long_prompts = prompts[prompts > 2_399]
    assert (long_prompts < 15_100).mean() == pytest.approx(
        0.5 * _share_of_l_eval_below(15_100), abs=0.01
    )  # half of the long ones are of L-Eval, whose one-letter answers are left out


def _share_of_l_eval_below(tokens):
    prompts, outputs = draw("l_eval")
    return (prompts[outputs >= 4] < tokens).mean()


@pytest.mark.parametrize("exponent", [1.0, 1.2, 1.4])
def test_zipf_prompts_follow_the_power_law(exponent):
    prompts, _ = draw("zipf", exponent)
    assert prompts.min() >= 10 and prompts.max() < 201_000
    tokens = np.arange(10, 200_000)
    weights = tokens**-exponent
    for most in (30, 300, 2_000, 10_000, 100_000):
        share = weights[tokens <= most].sum() / weights.sum()
        assert (prompts <= most).mean() == pytest.approx(share, abs=0.01)


def test_zipf_outputs_are_those_of_requests_with_such_prompts():
    prompts, outputs = draw("zipf", 1.0)
    chat = outputs[prompts <= 2_375].mean()
    assert chat > 3 * outputs[prompts > 2_734].mean()  # answers of the two long sets are short
    everything = np.concatenate(
        [data_set(name).sample(number, np.random.default_rng(1))[1] for name, number in POOL.items()]
    )
    assert outputs.max() <= everything.max() + 1


def test_one_seed_gives_one_sample():
    for name in LONG_CONTEXT:
        exponent = 1.2 if name == "zipf" else None
        first, again, other = (draw(name, exponent, 500, seed) for seed in (3, 3, 4))
        assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("name", "exponent", "message"),
    [
        ("alpaca", None, "lengths = alpaca: must be one of sharegpt, l_eval, lv_eval, mixed, zipf"),
        ("zipf", None, "zipf_exponent = None: must be given with lengths zipf"),
        ("mixed", 1.0, "zipf_exponent = 1.0: must be null with lengths mixed"),
        ("zipf", -0.5, "zipf_exponent = -0.5: must be at least 0 and finite"),
        ("zipf", np.nan, "zipf_exponent = nan: must be at least 0 and finite"),
    ],
)
def test_bad_input_is_named(name, exponent, message):
    with pytest.raises(InputError) as caught:
        long_context_lengths(name, exponent)
    assert str(caught.value) == message
