"""`IterationCost` tables from a measured profile of one transformer layer (kernels/llmservingsim.py)."""

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import Floats, IterationCost, validate_iteration_cost
from servegym.costmodels.iterations.knots import geometric_knots
from servegym.costmodels.kernels.llmservingsim import Curve, LayerProfile, MixedAttention, Skew

ONCE = ("embedding", "final_layernorm")
"""Dense layers of a model that it has once; the others are in every transformer layer."""

TWICE = ("layernorm",)
"""Dense layers that every transformer layer has twice: before attention and before the feed-forward."""

Mask = npt.NDArray[np.bool_]


def compile_from_layer_profile(
    profile: LayerProfile,
    *,
    num_layers: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    cpu_overhead_s: float,
    decode_skew: float = 1.0,
) -> IterationCost:
    """The tables of a model of `num_layers` such layers on the profile's device.

    An iteration is its layers, embedding, final norm, LM head and sampler as measured, and
    `cpu_overhead_s`. Between measured points times are linear, for prefill linear in the history and in
    log time over log chunk; below the smallest they are constant. A chunk's attention is that of a call
    of its own. Decodes beside prefill chunks take what they add to a call with a chunk. `decode_skew`
    multiplies decode attention, which is measured with equal histories; see `average_decode_skew`.
    Raises `InputError` for limits beyond the profile.
    """
    grid = profile.attention
    n, m = np.arange(max_num_batched_tokens + 1.0), np.arange(max_num_seqs + 1.0)
    linear_s = np.zeros_like(n)
    for name, curve in profile.dense.items():
        times = 1 if name in ONCE else num_layers * (2 if name in TWICE else 1)
        linear_s += times * _at(curve, n, name, "max_num_batched_tokens", profile.source)
    lm_head_s, sampler_s = (
        _at(profile.per_sequence[name], m, name, "max_num_seqs", profile.source)
        for name in ("lm_head", "sampler")
    )
    linear_s[0] = lm_head_s[0] = sampler_s[0] = 0.0
    if max_num_seqs > grid.decodes.max():
        raise InputError(
            f"max_num_seqs is {max_num_seqs}, must be at most {grid.decodes.max()}: the decodes of "
            f"attention in {profile.source}"
        )

    chunk_knots = geometric_knots(max_num_batched_tokens, ratio=1.06)
    history_knots = np.concatenate([[0.0], geometric_knots(int(grid.chunk_history.max()), ratio=1.15)])
    pairs = chunk_knots[:, None] * history_knots + chunk_knots[:, None] * (chunk_knots[:, None] + 1) / 2
    prefill_s = num_layers * _prefill_seconds(grid, chunk_knots, history_knots)

    longest = int(grid.decode_history.max())
    kv_knots = np.concatenate([[0.0], geometric_knots(max_num_seqs * longest, ratio=1.15)])
    mixed, mixed_s_per_pair = _decodes_beside_prefill(grid)
    alone_s, mixed_s = (
        decode_skew * num_layers * _decode_seconds(*measured, max_num_seqs, kv_knots)
        for measured in (_decodes_alone(grid), mixed)
    )
    cost = IterationCost(
        overhead_s=float(cpu_overhead_s),
        linear_s=linear_s,
        communication_s=np.zeros_like(n),
        lm_head_s=lm_head_s,
        sampler_s=sampler_s,
        prefill_chunk_knots=chunk_knots,
        prefill_history_knots=history_knots,
        prefill_s_per_pair=prefill_s / pairs,
        decode_kv_knots=kv_knots,
        decode_attention_s=alone_s,
        mixed_decode_attention_s=mixed_s,
        mixed_s_per_pair=num_layers * mixed_s_per_pair,
    )
    validate_iteration_cost(cost)
    return cost


def average_decode_skew(skew: Skew) -> float:
    """How much longer decodes of unequal histories take than of equal ones with the same total.

    The median over the measured calls without prefill, some decodes with four times the history of the
    others. 1 where unequal histories cost nothing.
    """
    alone = skew.chunk == 0
    return float(np.median(skew.seconds[alone] / skew.mean_s[alone]))


def _at(curve: Curve, x: Floats, name: str, limit: str, source: str) -> Floats:
    if x[-1] > curve.at[-1]:
        raise InputError(
            f"{limit} is {int(x[-1])}, must be at most {curve.at[-1]}, as far as {name} reaches in {source}"
        )
    seconds: Floats = np.interp(x, curve.at, curve.seconds)
    return seconds


def _prefill_seconds(grid: MixedAttention, chunks: Floats, histories: Floats) -> Floats:
    """Of one layer and chunk (C, H): the profile's histories differ from chunk to chunk."""
    alone = grid.decodes == 0
    measured = np.unique(grid.chunk[alone])
    rows = np.stack([_along(grid, alone & (grid.chunk == chunk), histories) for chunk in measured])
    columns = [np.interp(np.log(chunks), np.log(measured), np.log(column)) for column in rows.T]
    seconds: Floats = np.exp(np.stack(columns, axis=1))
    return seconds


def _along(grid: MixedAttention, which: Mask, histories: Floats) -> Floats:
    order = np.argsort(grid.chunk_history[which])
    seconds: Floats = np.interp(histories, grid.chunk_history[which][order], grid.seconds[which][order])
    return seconds


def _decodes_alone(grid: MixedAttention) -> tuple[Floats, Floats, Floats]:
    """Decodes (D,), their histories (V,) and seconds of one layer (D, V), NaN where not measured."""
    return _table(grid, (grid.chunk == 0) & (grid.decodes > 0), grid.seconds)


def _decodes_beside_prefill(grid: MixedAttention) -> tuple[tuple[Floats, Floats, Floats], float]:
    """The same of what decodes add to a call with a prefill chunk, and more for each decode and its tokens.

    Over chunks `c` without history, at each number of decodes `n` and history, added = a + b n c: `b` is the
    median of its slope between the smallest and the largest chunk, the table holds the median of the rest.
    """
    chunk = (grid.chunk > 0) & (grid.chunk_history == 0)
    alone = chunk & (grid.decodes == 0)
    without = dict(zip(grid.chunk[alone].tolist(), grid.seconds[alone].tolist(), strict=True))
    added = grid.seconds - np.array([without.get(tokens, np.nan) for tokens in grid.chunk.tolist()])
    mixed = chunk & (grid.decodes > 0) & ~np.isnan(added)
    slopes = []
    for count, history in np.unique(
        np.stack([grid.decodes[mixed], grid.decode_history[mixed]], axis=1), axis=0
    ):
        here = np.flatnonzero(mixed & (grid.decodes == count) & (grid.decode_history == history))
        first, last = here[np.argmin(grid.chunk[here])], here[np.argmax(grid.chunk[here])]
        if first != last:
            slopes.append((added[last] - added[first]) / (count * (grid.chunk[last] - grid.chunk[first])))
    per_pair_s = max(float(np.median(slopes)), 0.0) if slopes else 0.0
    rest = np.maximum(added - per_pair_s * grid.decodes * grid.chunk, 0.0)
    return _table(grid, mixed, rest), per_pair_s


def _table(grid: MixedAttention, which: Mask, seconds: Floats) -> tuple[Floats, Floats, Floats]:
    decodes, histories = np.unique(grid.decodes[which]), np.unique(grid.decode_history[which])
    table = np.full((len(decodes), len(histories)), np.nan)
    for i, count in enumerate(decodes):
        for j, history in enumerate(histories):
            here = which & (grid.decodes == count) & (grid.decode_history == history)
            if here.any():
                table[i, j] = np.nanmedian(seconds[here])
    return decodes.astype(np.float64), histories.astype(np.float64), table


def _decode_seconds(
    decodes: Floats, histories: Floats, table: Floats, max_num_seqs: int, kv_knots: Floats
) -> Floats:
    """Of one layer for 0 to `max_num_seqs` decodes that share `kv_knots` tokens evenly (M + 1, K)."""
    seconds = np.zeros((max_num_seqs + 1, len(kv_knots)))
    for count in range(1, max_num_seqs + 1):
        history = kv_knots / count
        rows = np.stack([_continued(history, histories, row) for row in table])
        seconds[count] = [np.interp(count, decodes, column) for column in rows.T]
    return seconds


def _continued(x: Floats, at: Floats, values: Floats) -> Floats:
    """Linear between the measured points, constant below the first, and beyond the last in proportion."""
    known = ~np.isnan(values)
    inside: Floats = np.interp(x, at[known], values[known])
    beyond: Floats = np.maximum(x / at[known][-1], 1.0)
    return inside * beyond
