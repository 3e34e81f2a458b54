import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import MODELS
from servegym.costmodels.transfer import NVLINK_A800, Link, kv_transfer_seconds


def test_link_has_a_latency_and_a_rate():
    link = Link(bytes_per_s=1e9, latency_s=5e-6)
    np.testing.assert_allclose(link.seconds([0, 1e6, 1e9]), [0.0, 1.005e-3, 1.000005])


def test_migration_is_that_of_loongserve():
    """tokens * 32 * 2 * 32 * 128 * 2 B / (400 GiB/s * tp) for Llama-2-7B."""
    seconds = kv_transfer_seconds(MODELS["llama_2_7b"], NVLINK_A800, [1000, 200_000], tensor_parallel=2)
    np.testing.assert_allclose(
        seconds, np.array([1000, 200_000]) * 32 * 2 * 32 * 128 * 2 / (400 * 2**30 * 2), rtol=1e-12
    )


def test_grouped_queries_move_less():
    mha, gqa = MODELS["llama_2_7b"], MODELS["llama_3_1_8b"]  # 32 and 8 KV heads, else alike
    link = Link(1e9)
    assert kv_transfer_seconds(mha, link, 16) == pytest.approx(4 * kv_transfer_seconds(gqa, link, 16))


@pytest.mark.parametrize(
    "rate, latency_s", [(0.0, 0.0), (-1.0, 0.0), (np.inf, 0.0), (1.0, -1.0), (1.0, np.nan)]
)
def test_link_refuses(rate, latency_s):
    with pytest.raises(InputError, match="link: "):
        Link(rate, latency_s)


def test_transfer_refuses():
    with pytest.raises(InputError, match="bytes to move"):
        kv_transfer_seconds(MODELS["llama_2_7b"], Link(1.0), -1)
    with pytest.raises(InputError, match="tensor_parallel is 0"):
        kv_transfer_seconds(MODELS["llama_2_7b"], Link(1.0), 1, tensor_parallel=0)
