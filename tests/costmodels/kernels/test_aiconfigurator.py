import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels import aiconfigurator

GEMM = {
    "version": ["0.24.0"] * 3,
    "kernel_source": ["linear", "deep_gemm", "linear"],
    "gemm_dtype": ["bfloat16", "fp8_block", "bfloat16"],
    "m": [1, 2, 3],
    "n": [128, 128, 256],
    "k": [64, 64, 64],
    "latency": [0.5, 1.0, 2.0],
}
DECODE = {
    "kernel_source": ["fa3"] * 2,
    "batch_size": [4, 8],
    "isl": [1, 1],
    "step": [7, 15],
    "num_heads": [8, 8],
    "num_key_value_heads": [1, 2],
    "head_dim": [128, 128],
    "attn_dtype": ["bfloat16"] * 2,
    "kv_cache_dtype": ["fp8", "bfloat16"],
    "window_size": [0, 128],
    "latency": [0.01, 0.02],
}
NCCL = {
    "version": ["2.29.2"] * 3,
    "op_name": ["alltoall", "all_reduce", "all_reduce"],
    "kernel_source": ["NCCL"] * 3,
    "nccl_dtype": ["half", "half", "int8"],
    "num_gpus": [2, 4, 8],
    "message_size": [256, 256, 256],
    "latency": [0.1, 0.2, 0.3],
}
MOE = {
    "kernel_source": ["triton"] * 2,
    "moe_dtype": ["int4_wo", "int4_wo"],
    "num_tokens": [16, 16],
    "hidden_size": [4096, 4096],
    "inter_size": [2048, 2048],
    "topk": [2, 2],
    "num_experts": [8, 8],
    "moe_tp_size": [1, 1],
    "moe_ep_size": [4, 4],
    "distribution": ["balanced", "power_law_1.2"],
    "latency": [1.0, 2.0],
}


def write(folder, group, framework, version, name, columns, system="h100_sxm"):
    path = folder / system / group / framework / version / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_milliseconds_become_seconds_and_one_file_one_group_per_kernel(tmp_path):
    write(tmp_path, "gemm", "vllm", "0.24.0", "gemm_perf", GEMM)
    bf16, fp8 = aiconfigurator.read(tmp_path, "h100_sxm")
    assert (bf16.operator, bf16.dtype, bf16.variant) == ("gemm", "bf16", "linear")
    assert bf16.seconds == pytest.approx([0.5e-3, 2e-3])
    assert bf16.shapes["m"].tolist() == [1, 3]
    assert bf16.rows.tolist() == [1, 3]
    assert (bf16.device, bf16.software) == ("h100_sxm", "vllm 0.24.0")
    assert (fp8.dtype, fp8.variant) == ("fp8_block", "deep_gemm")
    assert "eager" in fp8.includes and "eager" not in bf16.includes


def test_a_decode_has_step_tokens_of_history(tmp_path):
    write(tmp_path, "attention", "vllm", "0.24.0", "generation_attention_perf", DECODE)
    fp8, bf16 = aiconfigurator.read(tmp_path, "h100_sxm")
    assert (fp8.operator, fp8.dtype, fp8.kv_dtype) == ("decode_attention", "bf16", "fp8")
    assert {name: values.tolist() for name, values in fp8.shapes.items()} == {
        "batch": [4], "history": [7], "heads": [8], "kv_heads": [1], "head_dim": [128], "window": [0],
    }  # fmt: skip
    assert bf16.shapes["window"].tolist() == [128]


def test_a_prefill_has_isl_new_tokens_after_step(tmp_path):
    columns = DECODE | {"isl": [100, 200], "step": [0, 64]}
    del columns["window_size"]  # older tables have none
    write(tmp_path, "attention", "vllm", "0.24.0", "context_attention_perf", columns)
    both = aiconfigurator.read(tmp_path, "h100_sxm")
    assert {each.operator for each in both} == {"prefill_attention"}
    assert [each.shapes["tokens"].item() for each in both] == [100, 200]
    assert [each.shapes["history"].item() for each in both] == [0, 64]
    assert [each.shapes["window"].item() for each in both] == [0, 0]


def test_messages_are_counted_in_bytes(tmp_path):
    """256 elements are 512 bytes of half and 256 of int8; the version is that of the column."""
    write(tmp_path, "comm", "nccl", "2.27.3", "nccl_perf", NCCL)
    read = {(t.operator, t.dtype): t for t in aiconfigurator.read(tmp_path, "h100_sxm")}
    assert read["all_to_all", "fp16"].shapes["bytes"].tolist() == [512]
    assert read["all_reduce", "fp16"].shapes["bytes"].tolist() == [512]
    assert read["all_reduce", "int8"].shapes["bytes"].tolist() == [256]
    assert read["all_reduce", "int8"].shapes["gpus"].tolist() == [8]
    assert read["all_reduce", "int8"].software == "nccl 2.29.2"


def test_without_a_version_column_the_folder_says_it(tmp_path):
    columns = {name: values for name, values in NCCL.items() if name != "version"}
    write(tmp_path, "comm", "nccl", "2.23", "nccl_perf", columns)
    assert {each.software for each in aiconfigurator.read(tmp_path, "h100_sxm")} == {"nccl 2.23"}


def test_routing_distributions_are_variants(tmp_path):
    write(tmp_path, "moe", "vllm", "0.24.0", "moe_perf", MOE)
    balanced, skewed = aiconfigurator.read(tmp_path, "h100_sxm")
    assert (balanced.variant, skewed.variant) == ("balanced triton", "power_law_1.2 triton")
    assert balanced.dtype == "int4"
    assert {name: int(values[0]) for name, values in balanced.shapes.items()} == {
        "tokens": 16, "hidden": 4096, "inter": 2048, "topk": 2, "experts": 8, "tp": 1, "ep": 4,
    }  # fmt: skip


def test_choosing_what_to_read(tmp_path):
    write(tmp_path, "gemm", "vllm", "0.24.0", "gemm_perf", GEMM)
    write(tmp_path, "gemm", "trtllm", "1.0", "gemm_perf", GEMM)
    write(tmp_path, "comm", "nccl", "2.27.3", "nccl_perf", NCCL)
    write(tmp_path, "attention", "vllm", "0.24.0", "context_mla_perf", GEMM)  # not of the schema
    everything = aiconfigurator.read(tmp_path, "h100_sxm")
    assert len(everything) == 2 + 2 + 3
    assert {t.operator for t in aiconfigurator.read(tmp_path, "h100_sxm", ["all_reduce"])} == {"all_reduce"}
    [bf16, _] = aiconfigurator.read(tmp_path, "h100_sxm", framework="trtllm")
    assert bf16.software == "trtllm 0.24.0"
    assert len(aiconfigurator.read(tmp_path, "h100_sxm", version="0.24.0")) == 2
    with pytest.raises(InputError, match=r"no table of system h100_sxm, sglang; has systems h100_sxm"):
        aiconfigurator.read(tmp_path, "h100_sxm", framework="sglang")
    with pytest.raises(InputError, match=r"no table of system b200; has systems h100_sxm"):
        aiconfigurator.read(tmp_path, "b200")
    with pytest.raises(InputError, match=r"no table of system h100_sxm, operators send_recv"):
        aiconfigurator.read(tmp_path, "h100_sxm", ["send_recv"])


@pytest.mark.parametrize(
    "group, name, columns, said",
    [
        ("gemm", "gemm_perf", GEMM | {"latency": [1.0, 0.0, 1.0]}, r"parquet, row 2: latency is 0.0"),
        ("gemm", "gemm_perf", GEMM | {"latency": [1.0, 1.0, -1.0]}, r"row 3: latency is -1.0, must be"),
        ("gemm", "gemm_perf", GEMM | {"latency": [1.0, 1.0, np.inf]}, r"row 3: latency is inf"),
        ("gemm", "gemm_perf", GEMM | {"m": [1, -1, 1]}, r"row 2: m is -1, must be an integer"),
        ("gemm", "gemm_perf", GEMM | {"m": [1, None, 1]}, r"row 2: m is empty, must be a number"),
        ("gemm", "gemm_perf", {"m": [1], "n": [1]}, r"column gemm_dtype, kernel_source, k, latency is"),
        ("comm", "nccl_perf", NCCL | {"nccl_dtype": ["half", "fp3", "half"]}, r"row 2: nccl_dtype is fp3"),
        ("attention", "generation_attention_perf", DECODE | {"isl": [1, 2]}, r"row 2: isl is 2, must be 1"),
        ("comm", "nccl_perf", NCCL | {"op_name": ["dance"] * 3}, r"operator = dance: must be one of"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_by_file_and_row(tmp_path, group, name, columns, said):
    write(tmp_path, group, "vllm", "1", name, columns)
    with pytest.raises(InputError, match=said):
        aiconfigurator.read(tmp_path, "h100_sxm")


def test_what_is_not_parquet_is_refused(tmp_path):
    write(tmp_path, "gemm", "vllm", "1", "gemm_perf", GEMM)
    (tmp_path / "h100_sxm/gemm/vllm/1/gemm_perf.parquet").write_text("no")
    with pytest.raises(InputError, match=r"gemm_perf.parquet: cannot be read as a table"):
        aiconfigurator.read(tmp_path, "h100_sxm")


def test_the_installed_package(tmp_path, monkeypatch):
    """A package of that name with the layout of aiconfigurator-core 0.12."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(
        InputError, match=r"aiconfigurator-core is not installed; pip install 'servegym.kernels"
    ):
        aiconfigurator.installed_folder()
    package = tmp_path / "aiconfigurator_core"
    write(package / "systems" / "data", "gemm", "vllm", "0.24.0", "gemm_perf", GEMM)
    (package / "__init__.py").write_text("")
    folder = aiconfigurator.installed_folder()
    assert folder == Path(package / "systems" / "data")
    assert len(aiconfigurator.read(folder, "h100_sxm")) == 2


def test_the_published_tables(real_data):
    folder = real_data("kernels/aiconfigurator")
    assert aiconfigurator.systems(folder) == ["a100_sxm", "h100_sxm"]
    rows = {}
    for each in aiconfigurator.read(folder, "h100_sxm"):
        rows[each.operator] = rows.get(each.operator, 0) + len(each)
    assert rows == {
        "gemm": 93646, "prefill_attention": 42058, "decode_attention": 50838, "moe": 41681,
        "all_reduce": 138 + 252, "all_gather": 252, "reduce_scatter": 252, "all_to_all": 252,
    }  # fmt: skip


def test_published_rates_have_the_right_order(real_data):
    """Units: large bf16 GEMMs reach between half and all of 989.5 TFLOP/s; large messages, of 450 GB/s."""
    folder = real_data("kernels/aiconfigurator")
    [gemm] = [t for t in aiconfigurator.read(folder, "h100_sxm", ["gemm"]) if t.dtype == "bf16"]
    m, n, k = (gemm.shapes[name] for name in "mnk")
    large = (m >= 4096) & (n >= 4096) & (k >= 4096)
    flops_per_s = 2.0 * (m * n * k)[large] / gemm.seconds[large]
    assert 0.5 * 989.5e12 < np.median(flops_per_s) < 989.5e12
    for each in aiconfigurator.read(folder, "h100_sxm", ["all_reduce"]):
        large = (each.shapes["bytes"] >= 2**26) & (each.shapes["gpus"] == 8)
        if large.any():
            sent = 2 * 7 / 8 * each.shapes["bytes"][large] / each.seconds[large]
            assert 0.3 * 450e9 < sent.max() < 1.2 * 450e9
