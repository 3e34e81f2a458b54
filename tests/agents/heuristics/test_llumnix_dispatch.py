"""Llumnix's dispatching: the most free blocks a request."""

import pytest

from servegym.agents.heuristics.llumnix_dispatch import llumnix_dispatch
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.view import FIRST_WAITING_TOKENS, KV_USED_BLOCKS
from tests.agents.heuristics.rows import choice, rows_of

ALL = llumnix_dispatch(defrag=False, watermark=0.0)


def test_free_blocks_are_shared_by_the_requests() -> None:
    """30 / 2 against 60 / 5 blocks a request; max capacity would take the other."""
    assert choice(ALL, rows_of(2, kv_used_blocks=[70, 40], running=[2, 5])) == 0
    assert choice(ALL, rows_of(2, kv_used_blocks=[70, 40], running=[1, 1], waiting=[2, 2])) == 1


def test_those_waiting_need_blocks() -> None:
    """60 free less 640 / 16 of five waiting is 20 / 6; less 8 of the first, 52 / 2; 30 / 5 elsewhere."""
    rows = rows_of(2, kv_used_blocks=[40, 70], running=[1, 5], waiting=[5, 0], queued_prefill_tokens=[640, 0])
    rows[0, FIRST_WAITING_TOKENS] = 128
    assert choice(ALL, rows) == 1
    assert choice(llumnix_dispatch(defrag=True, watermark=0.0), rows) == 0
    rows[0, FIRST_WAITING_TOKENS] = 800  # 10 / 2
    assert choice(llumnix_dispatch(defrag=True, watermark=0.0), rows) == 1
    assert choice(llumnix_dispatch(defrag=False, watermark=0.0, block_size=64), rows) == 0  # 50 / 6


def test_the_watermark_is_not_free() -> None:
    """45 / 3 against 12 / 1; of 10 %, (45 - 10) / 3 against (12 - 2) / 1 is no other, of 30 % it is."""
    rows = rows_of(2, kv_total_blocks=[100, 20], kv_used_blocks=[55, 8], running=[3, 1])
    assert choice(ALL, rows) == 0
    assert choice(llumnix_dispatch(watermark=0.1), rows) == 0
    assert choice(llumnix_dispatch(watermark=0.3), rows) == 1


def test_an_idle_replica_is_the_freest() -> None:
    assert choice(ALL, rows_of(3, kv_total_blocks=[1000, 10, 10], running=[1, 0, 0])) == 1


def test_beside_an_urgent_request_little_is_free() -> None:
    """Of 200 blocks 100 stay free where a request is urgent: 60 / 1 are left against 100 / 2."""
    rows = rows_of(2, kv_total_blocks=[200, 200], kv_used_blocks=[40, 100], running=[1, 2], urgent=[1, 0])
    assert choice(ALL, rows) == 0
    assert choice(llumnix_dispatch(watermark=0.0, urgent_load_tokens=1200), rows) == 1  # 35 / 1
    rows[0, KV_USED_BLOCKS] = 90  # 10 / 1, 110 / 1 if it were not urgent
    assert choice(ALL, rows) == 1


def test_only_available_replicas() -> None:
    """Also where more is asked for than is free."""
    rows = rows_of(3, available=[0, 1, 1], running=[0, 2, 2], queued_prefill_tokens=[0, 9000, 8000])
    assert choice(ALL, rows) == 2
    assert choice(ALL, rows_of(2, available=[0, 0])) == -1


def test_ranges() -> None:
    with pytest.raises(InputError, match="router.watermark = 1: must be at least 0 and below 1"):
        llumnix_dispatch(watermark=1)
    with pytest.raises(InputError, match="router.block_size = 0: must be at least 1"):
        llumnix_dispatch(block_size=0)
