import gzip
import json

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import read_mooncake, read_trace

ROWS = [
    {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 0, "input_length": 1024, "output_length": 6, "hash_ids": [0, 2]},
    {"timestamp": 2999, "input_length": 3, "output_length": 7, "hash_ids": [3]},
    {"timestamp": 9001, "input_length": 512, "output_length": 8, "hash_ids": []},
]


def write(tmp_path, rows, name="trace.jsonl"):
    data = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_columns_and_prompt_contents(tmp_path, name):
    workload = read_trace(write(tmp_path, ROWS, name), "mooncake")
    assert workload.prompt_tokens.tolist() == [600, 1024, 3, 512]
    assert workload.output_tokens.tolist() == [5, 6, 7, 8]
    assert workload.prefix_ids.tolist() == [0, 1, 0, 2, 3]
    assert workload.prefix_offsets.tolist() == [0, 2, 4, 5, 5]
    assert workload.prefix_block_tokens == 512
    assert workload.source_line.tolist() == [1, 2, 3, 4]


def test_requests_of_one_tick_are_spread_over_it_in_order(tmp_path):
    rows = [{**ROWS[3], "timestamp": 3000 * (i // 500), "output_length": 1 + i} for i in range(2000)]
    path = write(tmp_path, rows)
    workload = read_mooncake(path)
    assert workload.output_tokens.tolist() == list(range(1, 2001))
    for tick in range(4):
        inside = workload.arrival_s[500 * tick : 500 * (tick + 1)] - 3.0 * tick
        assert inside.min() >= 0 and inside.max() < 3.0
        assert abs(inside.mean() - 1.5) < 4 * 3.0 / np.sqrt(12 * 500)
    assert read_mooncake(path).arrival_s.tolist() == workload.arrival_s.tolist()
    assert read_mooncake(path, seed=1).arrival_s.tolist() != workload.arrival_s.tolist()
    assert read_mooncake(path, tick_s=0.0).arrival_s.tolist() == [3.0 * (i // 500) for i in range(2000)]


def test_spreading_never_passes_the_next_time(tmp_path):
    rows = [{**ROWS[3], "timestamp": i} for i in range(100)]
    arrival_s = read_mooncake(write(tmp_path, rows)).arrival_s
    assert (arrival_s[:-1] < np.arange(1, 100) / 1000).all()
    assert (arrival_s >= np.arange(100) / 1000).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"timestamp": -1}, "timestamp is -1, allowed: a finite number, at least 0"),
        ({"timestamp": True}, "timestamp is True"),
        ({"timestamp": "0"}, "timestamp is '0'"),
        ({"timestamp": None}, "timestamp is None"),
        ({"input_length": 0}, "input_length is 0, allowed: a whole number from 1"),
        ({"output_length": 1.5}, "output_length is 1.5"),
        ({"output_length": 2**31}, "output_length is 2147483648"),
        ({"hash_ids": [1, 2, 3]}, "hash_ids has 3 entries for 600 tokens, allowed: at most 2"),
        ({"hash_ids": [-1]}, r"hash_ids is \[-1\], allowed: a list of whole numbers"),
        ({"hash_ids": "12"}, "hash_ids is '12'"),
        ({"hash_ids": [1, 0]}, "request 1: prefix id 1 does not follow the id that it follows elsewhere"),
    ],
)
def test_bad_lines_are_refused_by_file_line_and_value(tmp_path, change, message):
    path = write(tmp_path, [ROWS[0], {**ROWS[0], **change}])
    with pytest.raises(InputError, match=f"{path}, line 2: {message}"):
        read_mooncake(path)


def test_lines_that_are_no_objects_or_go_back_in_time_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"line 3: is '\[1\]', allowed: a JSON object"):
        read_mooncake(write(tmp_path, [ROWS[0], "", "[1]"]))
    with pytest.raises(InputError, match="line 1: is '{\"timestamp\": 0', allowed: a JSON object"):
        read_mooncake(write(tmp_path, ['{"timestamp": 0']))
    with pytest.raises(InputError, match=r"line 2: timestamp is 0.0, earlier"):
        read_mooncake(write(tmp_path, [ROWS[2], ROWS[0]]))
    with pytest.raises(InputError, match="line 1: the file holds nothing"):
        read_mooncake(write(tmp_path, [""]))
    with pytest.raises(InputError, match="tick_s is -1"):
        read_mooncake(write(tmp_path, ROWS), tick_s=-1.0)


def test_the_conversation_trace_shares_prefixes_and_is_not_bursty_within_ticks(real_data):
    path = real_data("traces/mooncake_fast25/conversation_trace.jsonl.gz")
    workload = read_mooncake(path)
    assert workload.num_requests == 12031
    assert len(np.unique(workload.prefix_ids)) < len(workload.prefix_ids) * 0.7
    ticks = read_mooncake(path, tick_s=0.0).arrival_s
    assert (workload.arrival_s - ticks < 3.0).all() and (workload.arrival_s >= ticks).all()
    assert len(np.unique(ticks)) == 1180
    assert np.diff(ticks).std() / np.diff(ticks).mean() == pytest.approx(3.03, abs=0.01)
    gaps_s = np.diff(workload.arrival_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, abs=0.05)
    part = workload.window(600.0, 1200.0)
    blocks = np.diff(part.prefix_offsets)
    assert (blocks == -(-part.prompt_tokens // 512)).all()
