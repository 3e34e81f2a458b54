import gzip

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import read_azure, read_csv, read_trace

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-12-31 23:59:59.9999999,374,44\n"
    "2024-01-01 00:00:00.0000001,396,109\n"
    "2024-01-01 00:00:02,1,1\n"
)
PLAIN = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,3\n0.5,20,1\n1e1,30,2\n"


def write(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") and isinstance(text, str) else data)
    return path


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_azure_times_are_exact_to_100_ns_and_start_at_zero(tmp_path, name):
    workload = read_azure(write(tmp_path, AZURE, name))
    assert workload.arrival_s.tolist() == [0.0, 2e-7, 2.0000001]
    assert workload.prompt_tokens.tolist() == [374, 396, 1]
    assert workload.output_tokens.tolist() == [44, 109, 1]
    assert workload.name == name


def test_plain_times_are_kept_as_given(tmp_path):
    workload = read_csv(write(tmp_path, PLAIN))
    assert workload.arrival_s.tolist() == [0.5, 0.5, 10.0]
    assert workload.prompt_tokens.tolist() == [10, 20, 30]
    assert workload.output_tokens.tolist() == [3, 1, 2]


def test_column_order_extra_columns_blank_lines_and_byte_order_mark_do_not_matter(tmp_path):
    text = (
        "\ufeffnum_decode_tokens, arrived_at,note,num_prefill_tokens\r\n3,0.5,a,10\r\n\r\n1,0.5,b,20\r\n\r\n"
    )
    workload = read_csv(write(tmp_path, text))
    assert workload.arrival_s.tolist() == [0.5, 0.5]
    assert workload.prompt_tokens.tolist() == [10, 20]
    assert workload.output_tokens.tolist() == [3, 1]
    assert workload.source_line.tolist() == [2, 4]


def test_formats_are_read_by_name(tmp_path):
    path = write(tmp_path, AZURE)
    assert read_trace(path, "azure").arrival_s.tolist() == read_azure(path).arrival_s.tolist()
    assert read_trace(write(tmp_path, PLAIN), "csv").prompt_tokens.tolist() == [10, 20, 30]
    with pytest.raises(
        InputError, match="trace format is 'parquet', allowed: azure, csv, decisions, mooncake, servegen"
    ):
        read_trace(path, "parquet")


@pytest.mark.parametrize(
    "tokens", ["0", "-5", "1.5", "1e3", "nan", "inf", "", "abc", "2147483648", "1_0", "\u0669"]
)
@pytest.mark.parametrize("column", ["num_prefill_tokens", "num_decode_tokens"])
def test_bad_token_counts_are_refused_by_line_and_value(tmp_path, column, tokens):
    row = f"1,{tokens},2" if column == "num_prefill_tokens" else f"1,2,{tokens}"
    text = f"arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n{row}\n2,1,1\n"
    expected = f", line 3: {column} is {tokens!r}, allowed: a whole number from 1 to 2147483647"
    assert refusal(read_csv, write(tmp_path, text)) == expected


@pytest.mark.parametrize("time", ["nan", "inf", "-1", "", "soon", "1_0", "1e400"])
def test_bad_plain_times_are_refused(tmp_path, time):
    text = f"arrived_at,num_prefill_tokens,num_decode_tokens\n{time},1,1\n"
    expected = f", line 2: arrived_at is {time!r}, allowed: a finite number of seconds, at least 0"
    assert refusal(read_csv, write(tmp_path, text)) == expected


@pytest.mark.parametrize("time", ["now", "NaT", "2023-13-01 00:00:00", "2023-01-01", "5.0", ""])
def test_bad_azure_times_are_refused(tmp_path, time):
    text = AZURE + f"{time},1,1\n"
    assert refusal(read_azure, write(tmp_path, text)).startswith(
        f", line 5: TIMESTAMP is {time!r}, allowed: a time"
    )


def test_unsorted_times_are_refused_at_the_row_that_goes_back(tmp_path):
    assert ", line 5: arrived_at is '9.5', earlier" in refusal(read_csv, write(tmp_path, PLAIN + "9.5,1,1\n"))
    earlier = AZURE + "2024-01-01 00:00:01.9999999,1,1\n"
    assert ", line 5: TIMESTAMP is '2024-01-01 00:00:01.9999999'" in refusal(
        read_azure, write(tmp_path, earlier)
    )


def test_missing_column_is_named_with_the_columns_found(tmp_path):
    message = refusal(read_azure, write(tmp_path, "TIMESTAMP,ContextTokens\n2024-01-01 00:00:00,1\n"))
    assert message.startswith(", line 1: column 'GeneratedTokens' is missing")
    assert "found: ['TIMESTAMP', 'ContextTokens']" in message
    assert "column 'arrived_at' is missing" in refusal(read_csv, write(tmp_path, "0.5,10,3\n1,2,3\n"))


def test_short_and_long_rows_are_refused(tmp_path):
    assert ", line 5: row has 2 fields, allowed: 3" in refusal(read_csv, write(tmp_path, PLAIN + "11,1\n"))
    assert ", line 5: row has 4 fields, allowed: 3" in refusal(
        read_csv, write(tmp_path, PLAIN + "11,1,1,1\n")
    )


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    assert "holds nothing" in refusal(read_csv, write(tmp_path, text))


def test_a_header_alone_is_refused(tmp_path):
    assert "holds only a header" in refusal(read_azure, write(tmp_path, AZURE.splitlines()[0] + "\n"))


def test_content_that_is_not_text_or_not_gzip_is_refused(tmp_path):
    latin = PLAIN.encode() + "11,1,1 é\n".encode("latin-1")
    assert ", line 5: byte 0xe9 is not UTF-8" in refusal(read_csv, write(tmp_path, latin))
    assert "not UTF-8" in refusal(read_csv, write(tmp_path, gzip.compress(PLAIN.encode())))
    assert "not a complete gzip file" in refusal(read_csv, write(tmp_path, PLAIN.encode(), "trace.csv.gz"))
    packed = gzip.compress(PLAIN.encode() * 50)
    assert "not a complete gzip file" in refusal(read_csv, write(tmp_path, packed[:40], "trace.csv.gz"))
    assert "not a complete gzip file" in refusal(
        read_csv, write(tmp_path, packed[:15] + b"\xff" * 8 + packed[23:], "trace.csv.gz")
    )
    assert ", line 2: " in refusal(read_csv, write(tmp_path, PLAIN.splitlines()[0] + '\n"1,2,3\n'))


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert "No such file" in refusal(read_azure, tmp_path / "absent.csv")
    assert "No such file" in refusal(read_azure, tmp_path / "absent.csv.gz")
    assert "cannot be read" in refusal(read_csv, tmp_path)


def test_a_request_too_long_for_the_cache_is_named_by_file_and_line(tmp_path):
    path = write(tmp_path, PLAIN.replace("0.5,20", "\n0.5,20"))
    workload = read_csv(path)
    with pytest.raises(InputError, match=r"trace.csv, line 5: request 2 with 30 prompt and 2 output"):
        workload.check_fits(num_kv_blocks=1, block_size=30)
    with pytest.raises(InputError, match=r"trace.csv, line 5: request 1"):
        workload.take(np.array([0, 2])).check_fits(num_kv_blocks=1, block_size=30)
