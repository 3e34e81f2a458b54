"""What the module in Envoy reckons that a replica is doing, from what was sent to it: closed forms."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, SETTING_FEATURES
from servegym.agents.serving.networks.compiled import compile_library
from servegym.agents.serving.plugins.envoy_module import build
from servegym.agents.zoo import policy_folder

SETTING = dict(zip(SETTING_FEATURES, (0.01, 1e-4, 1e-3, 0.0, 2048.0, 16.0, 50.0, 0.0, 1.0), strict=True))
"""10 ms an iteration and 1 ms more for each request, 0.1 ms a prefill token."""

CALLED = """
static Host one;
EXPORTED void meet(float speed) { one = (Host){.speed = speed, .kv_blocks = KV_BLOCKS}; }
EXPORTED void send(float prompt, float output, double now_s) { remember(&one, prompt, output, now_s); }
EXPORTED void row_of(float *row, int active, double now_s) { reckon(row, &one, active, true, now_s); }
"""


class Host:
    """One replica in C."""

    def __init__(self, library: ctypes.CDLL, speed: float = 1.0) -> None:
        self.library = library
        library.meet(ctypes.c_float(speed))

    def send(self, prompt: float, output: float, now_s: float) -> None:
        self.library.send(ctypes.c_float(prompt), ctypes.c_float(output), ctypes.c_double(now_s))

    def row(self, active: int, now_s: float) -> dict[str, float]:
        row = np.zeros(len(REPLICA_FEATURES), np.float32)
        self.library.row_of(ctypes.c_void_p(row.ctypes.data), active, ctypes.c_double(now_s))
        return dict(zip(REPLICA_FEATURES, row.tolist(), strict=True))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    policy = load_artifact(policy_folder("zoo:router"), backend="numpy")
    network = policy.description["network"]
    source = build.module_source(network["kind"], network["layers"], policy.weights, SETTING, 1000)
    # Without Envoy's functions: the part that asks for them is left out.
    alone = source[: source.index("/* A load balancer of Envoy")] + CALLED
    path: Path = tmp_path_factory.mktemp("module") / "reckoning.so"
    compile_library(alone, path)
    return ctypes.CDLL(str(path))


def test_an_idle_replica(library: ctypes.CDLL) -> None:
    row = Host(library, 0.5).row(0, 1.0)
    assert row["available"] == 1 and row["speed"] == 0.5 and row["kv_total_blocks"] == 1000
    assert sum(row.values()) == 1001.5


def test_a_request_prefills_and_then_decodes(library: ctypes.CDLL) -> None:
    host = Host(library)
    host.send(900, 40, 10.0)  # prefill: 0.01 + 0.09 s
    row = host.row(1, 10.05)
    assert (row["waiting"], row["running"], row["queued_prefill_tokens"]) == (1, 0, 900)
    assert (row["outstanding_tokens"], row["predicted_remaining_tokens"]) == (900, 40)
    assert row["kv_used_blocks"] == row["decode_context_tokens"] == 0
    row = host.row(1, 10.1 + 10 * 0.011)  # ten tokens of 11 ms later
    assert (row["waiting"], row["running"], row["queued_prefill_tokens"]) == (0, 1, 0)
    assert row["outstanding_tokens"] == row["decode_context_tokens"] == pytest.approx(910, abs=0.01)
    assert row["predicted_remaining_tokens"] == pytest.approx(30, abs=0.01)
    assert row["kv_used_blocks"] == 57 and row["kv_released_per_iteration"] == pytest.approx(940 / 40)
    row = host.row(1, 20.0)  # longer than predicted
    assert row["predicted_remaining_tokens"] == 0 and row["decode_context_tokens"] == 940


def test_prefills_come_one_after_the_other_and_slower_on_a_slow_replica(library: ctypes.CDLL) -> None:
    host = Host(library, 0.5)
    for _ in range(3):
        host.send(900, 40, 10.0)  # 0.2 s each
    assert [host.row(3, 10.0 + after_s)["waiting"] for after_s in (0.1, 0.3, 0.5, 0.7)] == [3, 2, 1, 0]


def test_those_under_way_are_the_ones_sent_last(library: ctypes.CDLL) -> None:
    host = Host(library)
    for i in range(200):
        host.send(100 + i, 10, 0.0)
    row = host.row(3, 100.0)
    assert row["running"] == 3
    assert row["decode_context_tokens"] == 297 + 298 + 299 + 3 * 10


def test_more_under_way_than_this_worker_knows_of(library: ctypes.CDLL) -> None:
    host = Host(library)
    row = host.row(4, 5.0)  # all of them another's: half through answers
    assert row["running"] == 4 and row["decode_context_tokens"] == row["predicted_remaining_tokens"] == 100
    host.send(100, 10, 0.0)
    row = host.row(4, 100.0)  # one known, three like it
    assert row["running"] == 4 and row["decode_context_tokens"] == 440
    assert row["speed"] == 1 and row["kv_total_blocks"] == 1000
