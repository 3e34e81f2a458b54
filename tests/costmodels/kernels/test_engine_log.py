import gzip
import json

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.engine_log import read_engine_log

REQUESTS = [
    # The second line arrived first.
    {"input_toks": 7, "output_toks": 1, "arrival_time": 1002.0, "queued_ts": 52.5,
     "scheduled_ts": 53.0, "first_token_ts": 54.0, "last_token_ts": 54.0},
    {"input_toks": 5, "output_toks": 3, "arrival_time": 1000.0, "queued_ts": 50.0,
     "scheduled_ts": 50.25, "first_token_ts": 50.5, "last_token_ts": 51.5},
]  # fmt: skip


def write_run(folder, requests=REQUESTS, meta=None):
    meta = {"model": "m", "vllm_version": "0.19.0", "engine_kwargs": {"max_num_seqs": 128}} | (meta or {})
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in requests))
    return folder


def test_times_are_relative_and_in_order_of_arrival(tmp_path):
    log = read_engine_log(write_run(tmp_path))
    assert len(log) == 2
    assert log.input_tokens.tolist() == [5, 7]
    assert log.output_tokens.tolist() == [3, 1]
    assert log.arrival_s.tolist() == [0.0, 2.0]
    assert log.queued_s.tolist() == [0.0, 2.5]
    assert log.queueing_s.tolist() == [0.25, 0.5]
    assert log.ttft_s.tolist() == [0.5, 1.5]
    assert log.latency_s.tolist() == [1.5, 1.5]
    assert log.tpot_s[0] == 0.5 and np.isnan(log.tpot_s[1])
    assert log.arguments == {"max_num_seqs": 128}
    assert (log.model, log.software) == ("m", "vllm 0.19.0")


def test_the_shortest_way_to_the_queue_counts_as_none(tmp_path):
    """Clocks without a common origin: the second request waited 0.1 s less in the client than the first."""
    requests = [
        {**REQUESTS[1], "arrival_time": 10.0, "queued_ts": 50.0},
        {**REQUESTS[1], "arrival_time": 10.5, "queued_ts": 50.4, "scheduled_ts": 50.4},
    ]
    log = read_engine_log(write_run(tmp_path, requests))
    assert log.queued_s == pytest.approx([0.1, 0.5])
    assert (log.queued_s >= log.arrival_s - 1e-12).all()


def test_a_gzipped_log_reads_the_same(tmp_path):
    plain = read_engine_log(write_run(tmp_path))
    (tmp_path / "requests.jsonl.gz").write_bytes(gzip.compress((tmp_path / "requests.jsonl").read_bytes()))
    (tmp_path / "requests.jsonl").unlink()
    assert np.array_equal(read_engine_log(tmp_path).latency_s, plain.latency_s)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"output_toks": 0}, r"line 2: output_toks is 0, must be an integer of at least 1"),
        ({"output_toks": 1.5}, r"line 2: output_toks is 1.5, must be an integer"),
        ({"queued_ts": None}, r"line 2: queued_ts is None, must be a finite number"),
        ({"arrival_time": float("nan")}, r"line 2: arrival_time is nan, must be a finite number"),
        ({"first_token_ts": 49.0}, r"line 2: queued_ts, .* must not decrease"),
    ],
)
def test_bad_requests_are_refused_by_line(tmp_path, change, said):
    write_run(tmp_path, [REQUESTS[0], REQUESTS[1] | change])
    with pytest.raises(InputError, match=said):
        read_engine_log(tmp_path)


def test_bad_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold meta.json or meta.json.gz"):
        read_engine_log(tmp_path)
    write_run(tmp_path, [])
    with pytest.raises(InputError, match=r"requests.jsonl: no requests"):
        read_engine_log(tmp_path)
    (tmp_path / "requests.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"requests.jsonl, line 1: not JSON"):
        read_engine_log(tmp_path)
    write_run(tmp_path, meta={"engine_kwargs": 3})
    with pytest.raises(InputError, match=r"meta.json: must be an object with an object engine_kwargs"):
        read_engine_log(tmp_path)


def test_the_published_run(real_data):
    log = read_engine_log(real_data("kernels/llmservingsim/bench/examples/RTXPRO6000/Llama-3.1-8B/vllm"))
    assert len(log) == 300
    assert log.arguments["max_num_batched_tokens"] == 2048
    assert 28 < log.arrival_s[-1] < 31  # Poisson 10/s
    assert (log.ttft_s >= log.queueing_s).all()
    assert (np.diff(log.arrival_s) >= 0).all()
    assert 0.02 < np.mean(log.tpot_s) < 0.05
