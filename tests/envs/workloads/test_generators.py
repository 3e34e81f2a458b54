import numpy as np
import pytest
from scipy import stats

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import (
    ConstantLengths,
    GeometricLengths,
    JointLengths,
    generate,
    load_fitted,
)


def gaps(arrivals, cv, seed=0, num_requests=20_000):
    workload = generate(arrivals, 4.0, cv, num_requests, ConstantLengths(1, 1), np.random.SeedSequence(seed))
    return np.diff(workload.arrival_s, prepend=0.0)


@pytest.mark.parametrize(("arrivals", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 2.0)])
def test_interarrivals_have_the_stated_distribution(arrivals, cv):
    law = stats.gamma(1 / cv**2, scale=cv**2 / 4.0) if arrivals == "gamma" else stats.expon(scale=1 / 4.0)
    assert stats.kstest(gaps(arrivals, cv), law.cdf).pvalue > 0.01
    assert gaps(arrivals, cv).mean() == pytest.approx(1 / 4.0, rel=4 * cv / np.sqrt(20_000))


def test_gamma_with_cv_1_is_poisson():
    assert gaps("gamma", 1.0).tolist() == gaps("poisson", 1.0).tolist()


def test_lengths_do_not_depend_on_the_arrivals_and_seeds_decide_everything():
    lengths = GeometricLengths(50.0, 20.0)
    slow = generate("poisson", 1.0, 1.0, 100, lengths, np.random.SeedSequence(0))
    fast = generate("gamma", 9.0, 2.0, 100, lengths, np.random.SeedSequence(0))
    other = generate("poisson", 1.0, 1.0, 100, lengths, np.random.SeedSequence(1))
    assert slow.prompt_tokens.tolist() == fast.prompt_tokens.tolist() != other.prompt_tokens.tolist()
    assert slow.output_tokens.tolist() == fast.output_tokens.tolist() != other.output_tokens.tolist()
    again = generate("poisson", 1.0, 1.0, 100, lengths, np.random.SeedSequence(0))
    assert slow.arrival_s.tolist() == again.arrival_s.tolist() != other.arrival_s.tolist()


def test_arrivals_do_not_depend_on_the_lengths():
    a = generate("poisson", 1.0, 1.0, 100, ConstantLengths(1, 1), np.random.SeedSequence(0))
    b = generate("poisson", 1.0, 1.0, 100, GeometricLengths(50.0, 20.0), np.random.SeedSequence(0))
    assert a.arrival_s.tolist() == b.arrival_s.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weibull", 1.0, 1.0, 1), "arrivals is 'weibull', allowed: poisson, gamma"),
        (("poisson", 0.0, 1.0, 1), "rate_rps is 0.0"),
        (("poisson", np.nan, 1.0, 1), "rate_rps is nan"),
        (("gamma", 1.0, 0.0, 1), "cv is 0.0"),
        (("poisson", 1.0, 2.0, 1), "cv is 2.0 for poisson arrivals, allowed: 1"),
        (("poisson", 1.0, 1.0, 0), "num_requests is 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        generate(*arguments, ConstantLengths(1, 1), np.random.SeedSequence(0))


def test_geometric_lengths_have_the_stated_law():
    prompts, outputs = GeometricLengths(8.0, 3.0).sample(100_000, np.random.default_rng(0))
    assert prompts.min() == outputs.min() == 1
    for tokens, mean in ((prompts, 8.0), (outputs, 3.0)):
        for value in range(1, 6):
            p = stats.geom.pmf(value, 1 / mean)
            assert abs((tokens == value).mean() - p) < 4 * np.sqrt(p * (1 - p) / 100_000)
    assert abs(stats.spearmanr(prompts, outputs).statistic) < 0.015


def test_joint_lengths_reproduce_a_strong_dependence_and_its_marginals():
    rng = np.random.default_rng(0)
    prompts = np.rint(np.exp(rng.normal(6, 1, 20_000))).astype(int) + 1
    outputs = np.rint(1_000_000 / prompts * rng.uniform(0.5, 1.5, 20_000)).astype(int) + 1
    lengths = JointLengths.fit(prompts, outputs, num_bins=32)
    drawn_prompts, drawn_outputs = lengths.sample(50_000, np.random.default_rng(1))
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    for drawn, fitted in ((drawn_prompts, prompts), (drawn_outputs, outputs)):
        np.testing.assert_allclose(np.quantile(drawn, levels), np.quantile(fitted, levels), rtol=0.03)
    expected = stats.spearmanr(prompts, outputs).statistic
    assert expected < -0.9
    assert stats.spearmanr(drawn_prompts, drawn_outputs).statistic == pytest.approx(expected, abs=0.02)


def test_joint_lengths_of_two_atoms_draw_only_pairs_that_were_seen():
    lengths = JointLengths.fit([5] * 100 + [9] * 100, [70] * 100 + [3] * 100, num_bins=2)
    pairs = {
        *zip(*(tokens.tolist() for tokens in lengths.sample(1000, np.random.default_rng(0))), strict=True)
    }
    assert pairs == {(5, 70), (9, 3)}


def test_unknown_fitted_workload_lists_the_known_ones():
    with pytest.raises(InputError, match="fitted workload is 'nope', allowed: arxiv, azure_conv_2023"):
        load_fitted("nope")
