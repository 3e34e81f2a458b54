import numpy as np
import pytest

from servegym.costmodels.batch import load_dnn_profiles
from servegym.costmodels.errors import InputError
from servegym.costmodels.zoo import zoo

GPUS = {"A100": 27, "V100": 26, "T4": 34, "A30": 17, "A40": 5}


@pytest.mark.parametrize("gpu", GPUS)
def test_networks_of_a_gpu(gpu: str) -> None:
    networks = zoo(gpu)
    names = [network.name for network in networks]
    assert len(set(names)) == len(names) == GPUS[gpu]
    firsts = [network.latency.latency_s[0] for network in networks]
    assert firsts == sorted(firsts)
    for network in networks:
        assert network.latency.batch[0] == 1
        assert np.all(np.diff(network.latency.latency_s) >= 0)
        assert network.linear.alpha_s >= 0 and network.linear.seconds(1) > 0


def test_no_larger_batch_takes_less_than_was_measured_for_a_smaller_one() -> None:
    falling = next(network for network in zoo("V100") if network.name == "efficientnet-widese-b4-mixed")
    source = next(
        each.measured
        for each in load_dnn_profiles("V100")
        if each.model == "efficientnet-widese-b4" and "Mixed" in each.variant
    )
    np.testing.assert_array_equal(falling.latency.latency_s, np.maximum.accumulate(source.latency_s))
    assert np.any(np.diff(source.latency_s) < 0)


def test_of_runtimes_the_fastest_stands_for_the_network() -> None:
    (bert,) = (network for network in zoo("V100") if network.name == "BERT-large-FP16")
    rivals = [
        each.measured.seconds(16)
        for each in load_dnn_profiles("V100")
        if each.model == "BERT-large" and "FP16" in each.variant
    ]
    assert len(rivals) == 4
    assert bert.latency.seconds(16) == min(rivals)


def test_below_the_smallest_measured_batch_the_time_stays() -> None:
    (dlrm,) = (network for network in zoo("A100") if network.name == "DLRM-22B-FP16")
    assert dlrm.latency.batch[:2] == (1, 256)
    assert dlrm.latency.seconds(1) == dlrm.latency.seconds(256)


def test_gpus_without_profiles_are_refused() -> None:
    with pytest.raises(InputError, match="no batch latencies on GPU 'H100', known: A100, A30, A40, T4, V100"):
        zoo("H100")
