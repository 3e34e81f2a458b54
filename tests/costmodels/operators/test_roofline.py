import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.operators.roofline import Roofline
from servegym.costmodels.specs import GPUS

H100 = GPUS["h100_sxm"]
IDEAL = Roofline(
    gemm_compute=1.0, gemm_memory=1.0, gemm_launch_s=0.0,
    attention_compute=1.0, attention_memory=1.0, attention_launch_s=0.0,
    elementwise_memory=1.0, elementwise_launch_s=0.0, link=1.0, all_reduce_launch_s=0.0,
)  # fmt: skip


def test_large_gemm_is_bound_by_compute():
    assert IDEAL.gemm_seconds(H100, "bfloat16", 8192, 8192, 8192) == pytest.approx(2 * 8192**3 / 989.5e12)
    # fp8 halves it, efficiency and launch do what they say
    assert IDEAL.gemm_seconds(H100, "fp8", 8192, 8192, 8192) == pytest.approx(2 * 8192**3 / 1979e12)
    real = Roofline(gemm_compute=0.5, gemm_launch_s=1e-3)
    assert real.gemm_seconds(H100, "bfloat16", 8192, 8192, 8192) == pytest.approx(
        1e-3 + 4 * 8192**3 / 989.5e12
    )


def test_gemm_of_one_token_is_bound_by_its_weights():
    seconds = IDEAL.gemm_seconds(H100, "bfloat16", 1, 4096, 14336)
    assert seconds == pytest.approx(2 * (4096 * 14336 + 14336 + 4096) / 3.35e12)


def test_attention_of_a_chunk_counts_every_causal_pair():
    pairs = sum(100_000 + i for i in range(1, 513))  # token i of the chunk sees the history and i new ones
    seconds = IDEAL.prefill_attention_seconds(H100, "bfloat16", 32, 8, 128, 512, 100_000)
    assert seconds == pytest.approx(4 * 32 * 128 * pairs / 989.5e12)


def test_a_prefill_of_one_token_is_a_decode():
    heads = (H100, "bfloat16", 32, 8, 128)
    for history in (0, 7, 5000):
        chunk = IDEAL.prefill_attention_seconds(*heads, 1, history)
        assert chunk == pytest.approx(IDEAL.decode_attention_seconds(*heads, 1, history))


def test_decode_attention_reads_the_cache():
    seconds = IDEAL.decode_attention_seconds(H100, "bfloat16", 32, 8, 128, 4, 40_000)
    moved = 2 * 8 * 128 * 2 * 40_004 + 2 * 32 * 128 * 2 * 4  # keys and values; queries and outputs
    assert seconds == pytest.approx(moved / 3.35e12)


def test_elementwise_and_all_reduce_by_hand():
    assert IDEAL.elementwise_seconds(H100, 3.35e9) == pytest.approx(1e-3)
    assert IDEAL.all_reduce_seconds(H100, 4, 450e6) == pytest.approx(1.5e-3)
    assert Roofline(link=0.5, all_reduce_launch_s=1.0).all_reduce_seconds(H100, 2, 450e6) == pytest.approx(
        1.002
    )


def test_arrays_equal_scalars():
    tokens = np.array([1.0, 64.0, 4096.0])
    together = Roofline().gemm_seconds(H100, "bfloat16", tokens, 4096, 4096)
    assert together.tolist() == [Roofline().gemm_seconds(H100, "bfloat16", m, 4096, 4096) for m in tokens]


@pytest.mark.parametrize(("field", "value"), [("gemm_compute", 0.0), ("link", 1.5), ("gemm_launch_s", -1e-6)])
def test_impossible_efficiencies_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        Roofline(**{field: value})
