import json

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import generate, read_lengths

CSV = "num_prefill_tokens,num_decode_tokens,pd_ratio\n10,70,0.1\n20,3,6.7\n"
ENTRIES = [
    {"num_prefill_tokens": 10, "num_decode_tokens": 70},
    {"num_prefill_tokens": 20, "num_decode_tokens": 3},
]


@pytest.mark.parametrize("name, text", [("lengths.csv", CSV), ("lengths.json", json.dumps(ENTRIES))])
def test_pairs_are_drawn_as_they_were_seen(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    lengths = read_lengths(tmp_path / name)
    workload = generate("poisson", 1.0, 1.0, 4000, lengths, np.random.SeedSequence(0))
    pairs = list(zip(workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True))
    assert set(pairs) == {(10, 70), (20, 3)}
    assert abs(pairs.count((10, 70)) - 2000) < 4 * np.sqrt(1000)


@pytest.mark.parametrize("value", ["0", "1.5", "x", "2147483648", "9" * 5000])
def test_bad_rows_are_refused_by_line(tmp_path, value):
    path = tmp_path / "lengths.csv"
    path.write_text(CSV + f"5,{value},1\n")
    with pytest.raises(
        InputError, match=r"lengths.csv, line 4: num_decode_tokens is .*, allowed: whole numbers"
    ):
        read_lengths(path)


@pytest.mark.parametrize("value", [0, 1.0, "7", None, True, 2**31])
def test_bad_entries_are_refused_by_number(tmp_path, value):
    path = tmp_path / "lengths.json"
    path.write_text(json.dumps([*ENTRIES, {"num_prefill_tokens": value, "num_decode_tokens": 1}]))
    with pytest.raises(InputError, match="lengths.json, entry 2: num_prefill_tokens is"):
        read_lengths(path)


@pytest.mark.parametrize("text", ["[", "[]", "{}", "[1]"])
def test_json_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "lengths.json").write_text(text)
    with pytest.raises(InputError, match="lengths.json: is"):
        read_lengths(tmp_path / "lengths.json")


def test_published_tables(real_data):
    lengths = read_lengths(real_data("traces/lengths/sharegpt_val_10k_llama2.csv.gz"))
    assert len(lengths.prompt_tokens) == 10_000
    assert (lengths.prompt_tokens + lengths.output_tokens).max() <= 4096
