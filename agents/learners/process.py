"""How a process is set up that learns by small networks on a CPU."""

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, by their numbers in glibc's malloc.h."""

LARGEST_ON_THE_HEAP = 32 << 20
"""Bytes; glibc refuses more."""

KEPT = 1 << 30
"""Bytes of freed memory that are not given back to the operating system (ours)."""


def set_up_learning() -> None:
    """One thread for torch, measured fastest at this size, so that sums come out the same anywhere.

    And what torch frees stays with the process: an update allocates megabytes for each layer, and glibc
    would otherwise hand them back each time, to be mapped again page by page. That took a third of the time
    of an update. Elsewhere than on glibc nothing is changed.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_THE_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT)
