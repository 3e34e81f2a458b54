import gzip
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.llmservingsim import read_layer_profile

META = """\
vllm_version: 0.19.0
hardware: RTXPRO6000
model: meta-llama/Llama-3.1-8B
variant: bf16
engine_effective: {max_num_seqs: 256, hf_overrides: {num_attention_heads: 16}}
"""


def write_profile(folder: Path, tp: int = 2, **changed: str) -> Path:
    tables = {
        "dense": "layer,tokens,time_us\nqkv_proj,4,30\nqkv_proj,1,10\nact_fn,1,2.5\nrotary_emb,2,1\n",
        "per_sequence": "layer,sequences,time_us\nlm_head,3,700\nsampler,3,25\n",
        "attention": "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,2,16,8\n16,32,1,64,9.5\n",
        "skew": "n,nb,pc,kp,kvs,kv_big,t_mean_us,t_max_us,t_skew_us\n4,1,16,32,128,512,40,50,45\n",
    }
    (folder / f"tp{tp}").mkdir()
    (folder / "meta.yaml").write_text(META)
    for name, text in {**tables, **changed}.items():
        (folder / f"tp{tp}" / f"{name}.csv").write_text(text)
    return folder


def test_tables_are_kept_in_seconds_and_in_order(tmp_path):
    profile = read_layer_profile(write_profile(tmp_path), 2)
    assert profile.dense["qkv_proj"].at.tolist() == [1, 4]
    assert profile.dense["qkv_proj"].seconds == pytest.approx([10e-6, 30e-6])
    assert profile.per_sequence["sampler"].seconds == pytest.approx([25e-6])
    assert profile.attention.decode_history.tolist() == [16, 64]
    assert profile.attention.seconds == pytest.approx([8e-6, 9.5e-6])
    assert (profile.skew.big.item(), profile.skew.big_history.item()) == (1, 512)
    assert profile.skew.seconds == pytest.approx([45e-6])
    assert profile.arguments["max_num_seqs"] == 256


def test_timings_have_the_dimensions_of_one_gpu(tmp_path):
    """Llama 3.1 8B on 2 GPUs: 16 of 32 heads, 4 of 8 KV heads, 7,168 of 14,336; half the vocabulary."""
    timings = read_layer_profile(write_profile(tmp_path), 2).timings()
    gemms = {(t.shapes["n"][0].item(), t.shapes["k"][0].item()) for t in timings if t.operator == "gemm"}
    assert gemms == {((16 + 2 * 4) * 128, 4096), (128256 // 2, 4096)}
    [activation] = [t for t in timings if t.operator == "activation"]
    assert activation.shapes["width"].tolist() == [7168]
    [rotary] = [t for t in timings if t.operator == "rotary"]
    assert rotary.shapes["width"].tolist() == [(16 + 4) * 128]
    [mixed] = [t for t in timings if t.operator == "mixed_attention"]
    assert (mixed.shapes["heads"][0], mixed.shapes["kv_heads"][0]) == (16, 4)
    assert mixed.rows.tolist() == [1, 2]
    [sampling] = [t for t in timings if t.operator == "sampling"]
    assert sampling.shapes["vocab"].tolist() == [128256]
    assert {(t.device, t.software, t.dtype) for t in timings} == {("rtx_pro_6000", "vllm 0.19.0", "bf16")}


def test_a_profile_without_skew_is_complete(tmp_path):
    write_profile(tmp_path)
    (tmp_path / "tp2" / "skew.csv").unlink()
    assert read_layer_profile(tmp_path, 2).skew is None


def test_gzipped_tables_read_the_same(tmp_path):
    write_profile(tmp_path)
    plain = read_layer_profile(tmp_path, 2).attention.seconds
    for path in list((tmp_path / "tp2").glob("*.csv")):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(read_layer_profile(tmp_path, 2).attention.seconds, plain)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"dense": "layer,tokens,time_us\nact_fn,1,0\n"}, r"dense.csv, row 1: time_us is 0"),
        ({"dense": "layer,tokens,time_us\nact_fn,1,2\nact_fn,1,3\n"}, r"row 2: act_fn has tokens twice"),
        ({"dense": "layer,tokens\nact_fn,1\n"}, r"dense.csv: column time_us is missing"),
        ({"dense": "layer,tokens,time_us\nact_fn,1,nan\n"}, r"row 1: time_us is nan"),
        ({"dense": "layer,tokens,time_us\nact_fn,1,fast\n"}, r"row 1: time_us is 'fast', must be a number"),
        ({"dense": "layer,tokens,time_us\nact_fn,1.5,2\n"}, r"row 1: tokens is 1.5, must be an integer"),
        ({"dense": "layer,tokens,time_us\n"}, r"dense.csv: the table has no rows"),
        ({"attention": ""}, r"attention.csv: cannot be read"),
    ],
)
def test_bad_tables_are_refused_by_file_and_row(tmp_path, changed, said):
    write_profile(tmp_path, **changed)
    with pytest.raises(InputError, match=said):
        read_layer_profile(tmp_path, 2)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold meta.yaml"):
        read_layer_profile(tmp_path)
    write_profile(tmp_path)
    with pytest.raises(InputError, match=r"tensor_parallel = 4 is not in the profile"):
        read_layer_profile(tmp_path, 4)
    (tmp_path / "meta.yaml").write_text(META.replace("Llama-3.1-8B", "Nameless-8B"))
    with pytest.raises(InputError, match=r"model meta-llama/Nameless-8B has no preset, known: "):
        read_layer_profile(tmp_path, 2)
    (tmp_path / "meta.yaml").write_text("model: x")
    with pytest.raises(InputError, match=r"meta.yaml: hardware, vllm_version, .* missing"):
        read_layer_profile(tmp_path, 2)
    (tmp_path / "meta.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"meta.yaml: cannot be read as YAML"):
        read_layer_profile(tmp_path, 2)


def test_an_unknown_layer_has_no_place_in_the_schema(tmp_path):
    write_profile(tmp_path, dense="layer,tokens,time_us\nmystery,1,2\n")
    with pytest.raises(InputError, match=r"layer mystery is unknown, known: embedding"):
        read_layer_profile(tmp_path, 2).timings()


def test_the_published_profile(real_data):
    folder = real_data("kernels/llmservingsim/profiler/perf/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16")
    profile = read_layer_profile(folder)
    assert {len(curve.at) for curve in profile.dense.values()} == {152}
    assert len(profile.attention.seconds) == 19364
    assert len(profile.skew.seconds) == 13009
    # Decodes at unequal histories take a time between those at the mean and at the greatest, in the middle.
    share = (profile.skew.seconds - profile.skew.mean_s) / (profile.skew.max_s - profile.skew.mean_s)
    assert 0 < np.median(share) < 1
    # The head streams 1.05 GB of weights: between 1 and 1.8 TB/s on this GPU.
    [head] = [t for t in profile.timings() if t.operator == "gemm" and t.shapes["n"][0] == 128256]
    weight_bytes = 128256 * 4096 * 2
    assert 1e12 < weight_bytes / head.seconds.min() < 1.8e12
