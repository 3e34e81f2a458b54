"""The committed parameters against the trace that they were fitted to, where the trace is there."""

from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from servegym.envs.workloads import find_data, generate, load_fitted, read_azure, split
from servegym.experiments.fits import fit_workload

TRACE = find_data("traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz")
needs_trace = pytest.mark.skipif(
    TRACE is None, reason="the Azure conversation trace is not in SERVEGYM_DATA or ../shared/data"
)
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def toy_trace(tail):
    """Eight minutes of one request every 10 s, then a last minute that `tail` decides."""
    rows = [
        f"2023-11-16 18:0{s // 60}:{s % 60:02d}.0000000,{100 + s},{5 + s % 7}\n" for s in range(0, 480, 10)
    ]
    return (
        HEADER
        + "".join(rows)
        + "".join(f"2023-11-16 18:08:{s:02d}.5,{tail},{tail}\n" for s in range(0, 60, 10))
    )


@needs_trace
def test_committed_parameters_are_what_the_command_gives(tmp_path):
    out = tmp_path / "fitted.json"
    assert fit_workload.main([str(TRACE), "--test-s", "1200", "--out", str(out)]) == 0
    committed = resources.files("servegym.envs.workloads") / "fitted" / "azure_conv_2023.json"
    assert out.read_bytes() == committed.read_bytes()


@needs_trace
def test_generated_requests_look_like_the_training_part_of_the_trace():
    train, _ = split(read_azure(TRACE), 1200.0)
    fitted = load_fitted("azure_conv_2023")
    drawn = generate(
        "gamma", fitted.rate_rps, fitted.interarrival_cv, 100_000, fitted.lengths, np.random.SeedSequence(0)
    )
    assert drawn.rate_rps == pytest.approx(train.rate_rps, rel=0.02)
    gaps_s, train_gaps_s = np.diff(drawn.arrival_s), np.diff(train.arrival_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(train_gaps_s.std() / train_gaps_s.mean(), rel=0.02)
    for column in ("prompt_tokens", "output_tokens"):
        ours, real = getattr(drawn, column), getattr(train, column)
        assert ours.mean() == pytest.approx(real.mean(), rel=0.02)
        levels = [0.1, 0.5, 0.9, 0.99]
        np.testing.assert_allclose(np.quantile(ours, levels), np.quantile(real, levels), rtol=0.03)
    ours_rank = stats.spearmanr(drawn.prompt_tokens, drawn.output_tokens).statistic
    real_rank = stats.spearmanr(train.prompt_tokens, train.output_tokens).statistic
    assert ours_rank == pytest.approx(real_rank, abs=0.02)


@needs_trace
def test_outputs_follow_the_prompt_as_in_the_trace():
    # The rank correlation is near 0 though the dependence is strong: compare the mean output by prompt.
    train, _ = split(read_azure(TRACE), 1200.0)
    prompts, outputs = load_fitted("azure_conv_2023").lengths.sample(100_000, np.random.default_rng(0))
    edges = [0, 170, 370, 420, 1000, 1200, 2000, 4000, 20_000]
    real_means, means = (
        [o[(p > low) & (p <= high)].mean() for low, high in pairwise(edges)]
        for p, o in ((train.prompt_tokens, train.output_tokens), (prompts, outputs))
    )
    assert max(real_means) / min(real_means) > 2
    np.testing.assert_allclose(means, real_means, rtol=0.08)


def test_the_held_out_part_does_not_reach_the_parameters(tmp_path):
    texts = []
    for tail in (7, 30_000):
        trace = tmp_path / "toy.csv"
        trace.write_text(toy_trace(tail))
        texts.append(fit_workload.fit(trace, 55.0))
    assert texts[0] == texts[1]
    assert '"rate_rps": 0.1,' in texts[0]
    assert '"num_requests": 48,' in texts[0]


def test_the_parameters_do_not_depend_on_where_the_files_lie(tmp_path):
    outputs = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        trace, out = tmp_path / folder / "toy.csv", tmp_path / folder / f"{folder}.json"
        trace.write_text(toy_trace(7))
        assert fit_workload.main([str(trace), "--test-s", "55", "--out", str(out)]) == 0
        outputs.append(out.read_text())
    assert outputs[0] == outputs[1]
    assert str(tmp_path) not in outputs[0]


def test_bad_input_ends_the_command_with_one_line_and_writes_nothing(tmp_path, capsys):
    trace, out = tmp_path / "toy.csv", tmp_path / "out.json"
    trace.write_text(HEADER + "2023-11-16 18:00:00.0,0,1\n")
    assert fit_workload.main([str(trace), "--test-s", "60", "--out", str(out)]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    trace.write_text(toy_trace(7))
    assert fit_workload.main([str(trace), "--test-s", "1e9", "--out", str(out)]) == 2
    assert "held-out part" in capsys.readouterr().err
    assert fit_workload.main([str(trace), "--test-s", "60", "--out", str(tmp_path / "no" / "out.json")]) == 2
    assert "--out" in capsys.readouterr().err
    assert not out.exists()
