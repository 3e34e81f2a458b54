"""Llumnix's dispatching: the most free blocks a request."""

import pytest

from servegym.agents.heuristics.llumnix_dispatch import llumnix_dispatch
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import choice, rows_of

ALL = llumnix_dispatch(defrag=False, watermark=0.0)


def test_free_blocks_are_shared_by_the_requests() -> None:
    """30 / 2 against 60 / 5 blocks a request; max capacity would take the other."""
    assert choice(ALL, rows_of(2, kv_used_blocks=[70, 40], running=[2, 5])) == 0
    assert choice(ALL, rows_of(2, kv_used_blocks=[70, 40], running=[1, 1], waiting=[2, 2])) == 1


def test_those_waiting_need_blocks() -> None:
    """60 free less 640 / 16 of five waiting is 20 / 6, less 8 of the first alone 52 / 6; 30 / 5 elsewhere."""
    rows = rows_of(2, kv_used_blocks=[40, 70], running=[1, 5], waiting=[5, 0], queued_prefill_tokens=[640, 0])
    assert choice(ALL, rows) == 1
    assert choice(llumnix_dispatch(defrag=True, watermark=0.0), rows) == 0
    assert choice(llumnix_dispatch(defrag=False, watermark=0.0, block_size=64), rows) == 0  # 50 / 6


def test_the_watermark_is_not_free() -> None:
    """45 / 3 against 12 / 1; of 10 %, (45 - 10) / 3 against (12 - 2) / 1 is no other, of 30 % it is."""
    rows = rows_of(2, kv_total_blocks=[100, 20], kv_used_blocks=[55, 8], running=[3, 1])
    assert choice(ALL, rows) == 0
    assert choice(llumnix_dispatch(watermark=0.1), rows) == 0
    assert choice(llumnix_dispatch(watermark=0.3), rows) == 1


def test_an_idle_replica_is_the_freest() -> None:
    assert choice(ALL, rows_of(3, kv_total_blocks=[1000, 10, 10], running=[1, 0, 0])) == 1


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
