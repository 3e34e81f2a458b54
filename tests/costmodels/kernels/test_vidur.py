import gzip

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels import vidur

OPERATIONS = (
    "emb", "input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm",
    "mlp_up_proj", "mlp_act", "mlp_down_proj",
)  # fmt: skip
SIZES = "n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,num_tokens,num_tensor_parallel_workers"
ATTENTION = (
    "time_stats.attn_prefill.median,time_stats.attn_decode.median,n_embd,n_q_head,n_kv_head,"
    "num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill,attention_backend\n"
)
NETWORK = (
    ",time_stats.all_reduce.mean,time_stats.all_reduce.median,num_workers,size,collective,devices_per_node\n"
)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mlp(*rows):
    """A row: sizes as text, then milliseconds of the nine operations."""
    header = ",".join([SIZES, *(f"time_stats.{name}.median" for name in OPERATIONS)])
    return "\n".join([header, *rows]) + "\n"


def by_column(timings):
    return {each.includes.split(":")[0]: each for each in timings}


def shape(each):
    return {name: int(values[0]) for name, values in each.shapes.items()}


def test_layers_become_operators_of_one_gpu(tmp_path):
    """Llama-2-70B on 4 GPUs: 16 of 64 heads, 2 of 8 KV heads, 7,168 of 28,672; times 1 to 9 ms."""
    row = "64,8,8192,28672,True,5,4,1,2,3,4,5,6,7,8,9"
    read = by_column(vidur.read(write(tmp_path / "compute/h100/meta/x/mlp.csv", mlp(row))))
    q, kv = 16 * 128, 2 * 128
    assert {name: (t.operator, shape(t), round(t.seconds[0] * 1e3)) for name, t in read.items()} == {
        "emb": ("embedding", {"tokens": 5, "width": 8192}, 1),
        "input_layernorm": ("normalisation", {"tokens": 5, "width": 8192}, 2),
        "attn_pre_proj": ("gemm", {"m": 5, "n": q + 2 * kv, "k": 8192}, 3),
        "attn_rope": ("rotary", {"tokens": 5, "width": q + kv}, 4),
        "attn_post_proj": ("gemm", {"m": 5, "n": 8192, "k": q}, 5),
        "post_attention_layernorm": ("normalisation", {"tokens": 5, "width": 8192}, 6),
        "mlp_up_proj": ("gemm", {"m": 5, "n": 2 * 7168, "k": 8192}, 7),
        "mlp_act": ("activation", {"tokens": 5, "width": 7168}, 8),
        "mlp_down_proj": ("gemm", {"m": 5, "n": 8192, "k": 7168}, 9),
    }
    assert {(t.device, t.dtype) for t in read.values()} == {("h100_sxm", "fp16")}


def test_untimed_cells_are_left_out(tmp_path):
    text = mlp("32,32,4096,11008,True,1,1,1,1,1,1,1,1,1,1,1", "32,32,4096,11008,True,1,2,,,1,1,1,,1,1,1")
    read = by_column(vidur.read(write(tmp_path / "mlp.csv", text)))
    assert read["emb"].rows.tolist() == [1]
    assert read["mlp_act"].rows.tolist() == [1, 2]
    assert read["mlp_act"].shapes["width"].tolist() == [11008, 5504]


def test_a_plain_feed_forward_has_no_gate(tmp_path):
    text = mlp("32,32,2560,10240,False,1,1,1,1,1,1,1,1,1,1,1")
    read = by_column(vidur.read(write(tmp_path / "mlp.csv", text)))
    assert shape(read["mlp_up_proj"])["n"] == 10240
    assert read["mlp_act"].variant == "ungated"


def test_attention_of_one_gpu_by_phase(tmp_path):
    rows = (
        "3,,8192,64,8,2,1,100,32,True,AttentionBackend.FLASH\n"
        ",4,8192,64,8,2,16,0,64,False,AttentionBackend.FLASH\n"
    )
    prefill, decode = vidur.read(write(tmp_path / "a100/x_attention.csv", ATTENTION + rows))
    heads = {"heads": 32, "kv_heads": 4, "head_dim": 128, "window": 0}
    assert (prefill.operator, decode.operator) == ("prefill_attention", "decode_attention")
    assert shape(prefill) == {"batch": 1, "tokens": 100, "history": 32} | heads
    assert shape(decode) == {"batch": 16, "history": 64} | heads
    assert (prefill.seconds[0], decode.seconds[0]) == (pytest.approx(3e-3), pytest.approx(4e-3))
    assert (prefill.device, prefill.variant) == ("a100_sxm", "FLASH")


def test_messages_and_placement(tmp_path):
    rows = "0,9,2,8,2048,all_reduce,8\n1,9,3,8,4096,all_reduce,4\n"
    inside, across = vidur.read(write(tmp_path / "network/h100_dgx/all_reduce.csv", NETWORK + rows))
    assert shape(inside) == {"bytes": 2048, "gpus": 8}
    assert (inside.device, inside.variant, across.variant) == ("h100_sxm", "8 per node", "4 per node")
    assert (inside.seconds[0], across.seconds[0]) == (pytest.approx(2e-3), pytest.approx(3e-3))


def test_cpu_time_is_the_sum_of_its_parts(tmp_path):
    text = (
        "model_name,batch_size,tensor_parallel_degree,schedule_median,sampler_e2e_median,"
        "prepare_inputs_e2e_median,process_model_outputs_median,ray_comm_time_mean,model_execution_e2e_median\n"
        "m,8,2,1,2,3,4,5,100\n"
    )
    [read] = vidur.read(write(tmp_path / "history/a100/cpu_overheads.csv", text))
    assert read.seconds == pytest.approx([15e-3])
    assert (read.operator, shape(read), read.variant) == ("cpu_overhead", {"sequences": 8, "gpus": 2}, "m")


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("mlp.csv", mlp("1,1,8,8,True,1,1,0,1,1,1,1,1,1,1,1"), r"mlp.csv, row 1: embedding takes 0.0 s"),
        ("mlp.csv", mlp("3,1,8,8,True,1,2,1,1,1,1,1,1,1,1,1"), r"row 1: n_head is 3, must be a multiple"),
        ("mlp.csv", mlp("1,1,8,8,True,1,0,1,1,1,1,1,1,1,1,1"), r"num_tensor_parallel_workers is 0, must be"),
        ("mlp.csv", "n_embd\n1\n", r"mlp.csv: column n_head, n_kv_head, .* is missing"),
        ("attention.csv", ATTENTION + ",0,8,1,1,1,1,0,1,False,B\n", r"row 1: decode_attention takes 0.0 s"),
        ("attention.csv", ATTENTION + "1,,8,1,1,1,1,0,1,False,B\n", r"row 1: decode_attention takes nan s"),
        (
            "all_reduce.csv",
            NETWORK + "0,1,1,2,8,send_recv,2\n",
            r"column time_stats.send_recv.median is miss",
        ),
    ],
)
def test_bad_tables_are_refused_by_file_and_row(tmp_path, name, text, said):
    with pytest.raises(InputError, match=said):
        vidur.read(write(tmp_path / name, text))


def test_a_folder_without_tables_is_refused(tmp_path):
    write(tmp_path / "other.csv", "a\n1\n")
    assert not vidur.holds_tables(tmp_path)
    with pytest.raises(InputError, match=r"no table of Vidur; must be or hold mlp.csv, attention.csv"):
        vidur.read(tmp_path)


def test_gzipped_tables_in_one_folder(tmp_path):
    text = mlp("32,32,2560,10240,True,1,1,1,1,1,1,1,1,1,1,1")
    for model in ("a", "b"):
        path = tmp_path / model / "mlp.csv.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(text.encode()))
    assert vidur.holds_tables(tmp_path)
    assert len(vidur.read(tmp_path)) == 2 * len(OPERATIONS)


def test_the_published_profiles(real_data):
    """Large projections reach between half and all of the H100's 989.5 TFLOP/s: units and dimensions fit."""
    timings = vidur.read(real_data("kernels/vidur"))
    rows = {}
    for each in timings:
        rows[each.operator] = rows.get(each.operator, 0) + len(each)
    assert rows["gemm"] == 4 * (2 * 261 + 4 * 1044 + 2 * 1824)
    assert rows["prefill_attention"] + rows["decode_attention"] == 14658
    assert rows["all_reduce"] == 2982 + 6958 + 4496
    assert rows["send_recv"] == 3 * 1988
    assert rows["cpu_overhead"] == 78
    for each in timings:
        if each.operator == "gemm" and each.device == "h100_sxm":
            m, n, k = (each.shapes[name] for name in "mnk")
            rates = 2.0 * m * n * k / each.seconds
            assert 0.5 * 989.5e12 < np.max(rates) < 989.5e12
