"""How the measured table of each operator is laid out: what is a grid, and what makes two shapes alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.work import Floats, routed_experts

Shapes = Mapping[str, Floats]


@dataclass(frozen=True)
class Layout:
    """Of one operator."""

    grid: tuple[str, ...]
    """Dimensions measured at the same values for every configuration; interpolated linearly."""
    features: Callable[[Shapes], Floats]
    """(N, D) coordinates of the configurations, alike where they are close."""
    scales: tuple[tuple[float, ...], ...]
    """What each coordinate is multiplied by; the best of these is chosen on the table's own timings."""
    group: tuple[str, ...]
    """Dimensions that make up a configuration, which a validation leaves out whole."""

    def groups(self, timings: KernelTimings) -> npt.NDArray[np.int64]:
        """(N,) number of the configuration of each timing, in no particular order of shapes."""
        columns = np.stack([timings.shapes[name] for name in self.group], 1)
        _, group = np.unique(columns, axis=0, return_inverse=True)
        group = np.asarray(group, np.int64).ravel()
        return np.random.default_rng(0).permutation(int(group.max()) + 1)[group]


def _logs(*names: str) -> Callable[[Shapes], Floats]:
    return lambda shapes: np.stack([np.log1p(shapes[name]) for name in names], 1)


def _attention(keys: Callable[[Shapes], Floats]) -> Callable[[Shapes], Floats]:
    """Heads, KV heads, head dimension, whether every head has keys of its own (some kernels then have no
    group of heads to fill a tile with, and do not split the keys), share of the keys in the window.
    """

    def features(shapes: Shapes) -> Floats:
        length, window = keys(shapes), shapes["window"]
        seen = np.where(window > 0, np.minimum(window, length), length) / length
        alone = (shapes["heads"] == shapes["kv_heads"]).astype(np.float64)
        logs = [np.log(shapes[name]) for name in ("heads", "kv_heads", "head_dim")]
        return np.stack([*logs, alone, np.log(seen)], 1)

    return features


def _moe(shapes: Shapes) -> Floats:
    rows = shapes["tokens"] * shapes["topk"] / shapes["ep"]
    inter = shapes["inter"] / shapes["tp"]
    experts = shapes["experts"] / shapes["ep"]
    busy = routed_experts(shapes)
    return np.log(np.stack([shapes["hidden"], inter, experts, rows / busy, shapes["topk"]], 1))


_HEADS = ("heads", "kv_heads", "head_dim")
_ATTENTION_SCALES = tuple(
    (heads, heads, head_dim, alone, 0.25)
    for heads in (0.125, 0.25)
    for head_dim in (0.5, 1.0)
    for alone in (0.0, 0.5)
)
_MESSAGE = Layout(("gpus",), _logs("bytes"), ((0.05,),), ("bytes",))
_TOKENS = Layout((), _logs("tokens", "width"), ((0.25, 0.25),), ("tokens", "width"))

LAYOUTS: Mapping[str, Layout] = {
    "gemm": Layout(("m",), _logs("n", "k"), ((0.125, 0.125), (0.25, 0.25), (0.5, 0.5)), ("n", "k")),
    "prefill_attention": Layout(
        ("batch", "tokens", "history"),
        _attention(lambda shapes: shapes["tokens"] + shapes["history"]),
        _ATTENTION_SCALES,
        _HEADS,
    ),
    "decode_attention": Layout(
        ("batch", "history"), _attention(lambda shapes: shapes["history"] + 1), _ATTENTION_SCALES, _HEADS
    ),
    "mixed_attention": Layout(
        ("tokens", "history", "decodes", "decode_history"), _logs(*_HEADS), ((0.25, 0.25, 0.5),), _HEADS
    ),
    "moe": Layout(
        ("tokens",),
        _moe,
        ((0.25, 0.25, 0.25, 0.25, 0.25), (0.5, 0.5, 0.25, 0.25, 0.25), (0.25, 0.25, 0.1, 0.5, 0.1)),
        ("hidden", "inter", "topk", "experts"),
    ),
    "all_reduce": _MESSAGE,
    "all_gather": _MESSAGE,
    "reduce_scatter": _MESSAGE,
    "all_to_all": _MESSAGE,
    "send_recv": _MESSAGE,
    "normalisation": _TOKENS,
    "activation": _TOKENS,
    "rotary": _TOKENS,
    "embedding": _TOKENS,
    "sampling": Layout((), _logs("sequences", "vocab"), ((0.25, 0.25),), ("sequences", "vocab")),
}
"""By operator."""
