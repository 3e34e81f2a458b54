"""The committed lengths against the tables that they were fitted to, where these are there."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from servegym.envs.workloads import load_fitted
from servegym.envs.workloads.length_tables import read_lengths
from servegym.experiments.fits import fit_lengths

TABLES = {
    "sharegpt": "traces/lengths/sharegpt_val_10k_llama2.csv.gz",
    "arxiv": "traces/lengths/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv.gz",
}


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_lengths_are_what_the_command_gives(
    real_data: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "lengths.json"
    assert fit_lengths.main([name, str(real_data(TABLES[name])), "--out", str(out)]) == 0
    committed = resources.files("servegym.envs.workloads") / "fitted" / f"{name}.json"
    assert out.read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("name", TABLES)
def test_drawn_lengths_look_like_the_table(real_data: Callable[[str], Path], name: str) -> None:
    table = read_lengths(real_data(TABLES[name]))
    drawn = load_fitted(name).lengths.sample(100_000, np.random.default_rng(0))
    for ours, real in zip(drawn, (table.prompt_tokens, table.output_tokens), strict=True):
        assert ours.mean() == pytest.approx(real.mean(), rel=0.03)
        np.testing.assert_allclose(np.quantile(ours, [0.5, 0.9]), np.quantile(real, [0.5, 0.9]), rtol=0.05)
    assert np.corrcoef(*drawn)[0, 1] == pytest.approx(
        np.corrcoef(table.prompt_tokens, table.output_tokens)[0, 1], abs=0.05
    )


def test_bad_input_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "lengths.csv"
    table.write_text("num_prefill_tokens,num_decode_tokens\n10,0\n")
    assert fit_lengths.main(["arxiv", str(table), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "line 2: num_decode_tokens is 0" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
