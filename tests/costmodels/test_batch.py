import csv
from importlib import resources

import numpy as np
import pytest

from servegym.costmodels.batch import LinearBatchLatency, TabulatedBatchLatency, load_dnn_profiles
from servegym.costmodels.errors import InputError
from servegym.experiments.fits import fit_batch_latency


def test_law_is_linear():
    law = LinearBatchLatency(alpha_s=2e-3, beta_s=5e-3)
    np.testing.assert_allclose(law.seconds([1, 4, 32]), [7e-3, 13e-3, 69e-3])


def test_fit_recovers_the_law_from_noisy_times():
    rng = np.random.default_rng(0)
    batch = np.repeat([1, 2, 4, 8, 16, 32], 50)
    times = (0.3e-3 * batch + 1.6e-3) * rng.normal(1, 0.05, batch.size)
    law = LinearBatchLatency.fit(batch, times)
    assert law.alpha_s == pytest.approx(0.3e-3, rel=0.02)
    assert law.beta_s == pytest.approx(1.6e-3, rel=0.02)


def test_fit_weighs_relative_errors():
    """Three points off the line: minimises sum((l(b) / t - 1)^2), not sum((l(b) - t)^2)."""
    batch, times = np.array([1.0, 10.0, 100.0]), np.array([2e-3, 4e-3, 50e-3])
    law = LinearBatchLatency.fit(batch, times)

    def loss(alpha, beta):
        return np.sum(((alpha * batch + beta) / times - 1) ** 2)

    best = loss(law.alpha_s, law.beta_s)
    for alpha, beta in ((1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99)):
        assert best < loss(alpha * law.alpha_s, beta * law.beta_s)


def test_fit_keeps_coefficients_at_zero_or_above():
    law = LinearBatchLatency.fit([2, 4], [1e-3, 3e-3])  # the line through both starts below 0
    assert law.beta_s == 0 and law.alpha_s > 0


@pytest.mark.parametrize(
    "batch, times, words",
    [
        ([4, 4], [1, 1], "two or more"),
        ([0, 4], [1, 1], "at least 1"),
        ([1, 4], [1, 0], "above 0"),
        ([1, 4], [1, np.nan], "finite"),
        ([1, 4, 8], [1, 2], r"\(N,\)"),
    ],
)
def test_fit_refuses(batch, times, words):
    with pytest.raises(InputError, match=words):
        LinearBatchLatency.fit(batch, times)


@pytest.mark.parametrize("alpha_s, beta_s", [(-1e-3, 1.0), (0.0, 0.0), (np.nan, 1.0), (1.0, np.inf)])
def test_law_refuses_impossible_coefficients(alpha_s, beta_s):
    with pytest.raises(InputError, match=r"l\(b\)"):
        LinearBatchLatency(alpha_s, beta_s)


def test_law_refuses_an_empty_batch():
    with pytest.raises(InputError, match="at least 1"):
        LinearBatchLatency(1e-3, 0.0).seconds([1, 0])


def test_table_is_linear_between_and_refuses_beyond():
    table = TabulatedBatchLatency((1, 4, 8), (1e-3, 2e-3, 2.4e-3))
    np.testing.assert_allclose(table.seconds([1, 2, 4, 6, 8]), np.array([1, 4 / 3, 2, 2.2, 2.4]) * 1e-3)
    with pytest.raises(InputError, match="a batch of 9, measured are 1 to 8"):
        table.seconds([4, 9])
    with pytest.raises(InputError, match="a batch of 0"):
        table.seconds(0)


@pytest.mark.parametrize(
    "batch, times",
    [((4, 1), (1.0, 2.0)), ((0, 1), (1.0, 2.0)), ((1, 2), (1.0, 0.0)), ((1,), (1.0, 2.0)), ((), ())],
)
def test_table_refuses(batch, times):
    with pytest.raises(InputError, match="batch latencies"):
        TabulatedBatchLatency(batch, times)


def test_zoo_holds_twenty_profiles_of_most_gpus():
    for gpu in ("A100", "V100", "T4", "A30"):
        assert len(load_dnn_profiles(gpu)) >= 20
    assert {profile.gpu for profile in load_dnn_profiles("T4")} == {"T4"}
    with pytest.raises(InputError, match="known: A100"):
        load_dnn_profiles("H100")


def test_zoo_holds_the_published_figures():
    """ResNet-50 on Triton with TensorRT, as its page prints it: 2.128 ms at batch 1 on an A100."""
    (profile,) = (p for p in load_dnn_profiles("A100") if p.model == "resnet50")
    assert profile.measured.seconds(1) == pytest.approx(2.128e-3)
    assert profile.linear.alpha_s == pytest.approx(0.317e-3, rel=0.01)
    assert profile.linear.beta_s == pytest.approx(1.58e-3, rel=0.01)


def test_zoo_states_the_error_of_its_laws():
    for profile in load_dnn_profiles():
        measured = np.array(profile.measured.latency_s)
        error = np.mean(np.abs(profile.linear.seconds(profile.measured.batch) / measured - 1))
        assert error == pytest.approx(profile.linear_error, abs=2e-4)


def test_committed_zoo_is_what_the_command_gives(real_data, tmp_path):
    folder = real_data("dnn_batch_latency/batch_latency.csv.gz").parent
    out = tmp_path / "zoo.json"
    assert fit_batch_latency.main([str(folder), "--out", str(out)]) == 0
    committed = resources.files("servegym.costmodels") / "profiles" / "dnn_batch_latency.json"
    assert out.read_bytes() == committed.read_bytes()


def test_zoo_agrees_with_fits_made_elsewhere(real_data):
    """The alphas that came with the data, fitted by their own program, where it printed the same times."""
    with real_data("dnn_batch_latency/linear_fits.csv").open() as file:
        theirs = {row["latencies"]: float(row["alpha"]) for row in csv.DictReader(file)}
    found = 0
    for profile in load_dnn_profiles():
        key = " ".join(f"{1e3 * time:.9g}" for time in profile.measured.latency_s)
        if key in theirs and profile.linear.beta_s > 0:
            found += 1
            assert 1e3 * profile.linear.alpha_s == pytest.approx(theirs[key], rel=0.02, abs=1e-4)
    assert found > 50


def test_fit_batch_latency_refuses_a_folder_without_the_table(tmp_path, capsys):
    assert fit_batch_latency.main([str(tmp_path), "--out", str(tmp_path / "zoo.json")]) == 2
    assert "batch_latency.csv.gz" in capsys.readouterr().err
    assert not (tmp_path / "zoo.json").exists()
