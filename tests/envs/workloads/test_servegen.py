import json
import tarfile

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import read_trace
from servegym.envs.workloads.servegen import read_clients, read_servegen

TRACE = "0,0.5,2.0,Gamma,0.25,8.0\n600,0,0,,0,0\n1200,2.0,1.5,Weibull,0.7,0.4\n"
DATASET = {
    "0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": '{"7": 1.0}'},
    "21600": {"input_tokens": "{}", "output_tokens": "{}"},
}


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "data" / "language" / "m-small"
    inside.mkdir(parents=True)
    (inside / "chunk-3-trace.csv").write_text(TRACE)
    (inside / "chunk-3-dataset.json").write_text(json.dumps(DATASET))
    (inside / "chunk-12-trace.csv").write_text("0,1.0,1.0,Gamma,1.0,1.0\n21600,4.0,1.0,Gamma,1.0,0.25\n")
    return tmp_path / "data"


def test_windows_are_cut_to_the_time_asked_for_and_idle_ones_left_out(folder):
    windows = read_clients(folder, 300.0, 1500.0)
    assert [(w.start_s, w.end_s, w.rate_rps, w.law, w.shape) for w in windows] == [
        (300.0, 600.0, 0.5, "gamma", 0.25),
        (1200.0, 1500.0, 2.0, "weibull", 0.7),
        (300.0, 600.0, 1.0, "gamma", 1.0),
    ]
    assert windows[0].prompt.tokens.tolist() == [10, 20]
    assert windows[0].prompt.probability.tolist() == [0.25, 0.75]
    assert windows[1].output.tokens.tolist() == [7]
    assert windows[2].prompt is None


def test_a_tar_archive_reads_like_its_folder(folder, tmp_path):
    archive = tmp_path / "clients.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "data")
    packed, plain = read_servegen(archive, 0.0, 1800.0), read_trace(folder, "servegen")
    assert packed.arrival_s.tolist() == plain.arrival_s[: packed.num_requests].tolist()
    assert set(packed.prompt_tokens) == {10, 20}
    (tmp_path / "half.tar.gz").write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match="half.tar.gz: cannot be read"):
        read_clients(tmp_path / "half.tar.gz", 0.0, 600.0)


def test_times_without_clients_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no client at work from 600 to 1200 s"):
        read_clients(folder, 600.0, 1200.0)
    with pytest.raises(InputError, match="allowed: 0 <= start < end"):
        read_clients(folder, 600.0, 600.0)
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        read_clients(tmp_path / "nowhere", 0.0, 600.0)
    with pytest.raises(InputError, match="none with known lengths"):
        read_servegen(folder, 21600.0, 600.0)


@pytest.mark.parametrize(
    "row, message",
    [
        ("0,1,1,Gamma,1", "line 4: row has 5 fields, allowed: 6"),
        ("x,1,1,Gamma,1,1", "line 4: timestamp is 'x'"),
        ("0,-1,1,Gamma,1,1", "line 4: rate is '-1'"),
        ("0,nan,1,Gamma,1,1", "line 4: rate is 'nan'"),
        ("0,1,1,Pareto,1,1", "line 4: pattern is 'Pareto', allowed: Gamma, Weibull"),
        ("0,1,1,Gamma,0,1", "line 4: shape is '0', allowed: above 0"),
    ],
)
def test_bad_rows_are_refused(folder, row, message):
    (folder / "chunk-3-trace.csv").write_text(TRACE + row)
    with pytest.raises(InputError, match=f"chunk-3-trace.csv, {message}"):
        read_clients(folder, 0.0, 600.0)


@pytest.mark.parametrize(
    "text", ["{0: 1.0}", "{1.5: 1.0}", "{5: -1.0}", "{5: 0.0}", "{5}", "{5: x}", "5: 1.0", None, "{5: nan}"]
)
def test_bad_histograms_are_refused(folder, text):
    dataset = {"0": {"input_tokens": "{5: 1.0}", "output_tokens": text}}
    (folder / "chunk-3-dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(
        InputError, match="chunk-3-dataset.json: window 0: output_tokens is .* allowed: a text"
    ):
        read_clients(folder, 0.0, 600.0)


def test_published_clients_have_the_published_total_rate(real_data):
    archive = real_data("traces/servegen/language_m-large_day0-6.tar.gz")
    windows = read_clients(archive, 0.0, 600.0)
    rate_rps = sum(window.rate_rps for window in windows)
    assert rate_rps == pytest.approx(212.8, abs=0.1)
    workload = read_servegen(archive, 0.0, 600.0)
    assert workload.num_requests == pytest.approx(600 * rate_rps, rel=0.05)
    assert np.diff(workload.arrival_s).min() >= 0
