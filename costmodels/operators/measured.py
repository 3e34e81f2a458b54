"""Measured tables: the logarithm of the efficiency over the roofline, interpolated between shapes.

A table is measured on a grid (GEMM: m; attention: batch, tokens, history) for many configurations (GEMM:
n, k; attention: heads, head dimension, window). At each point of the grid the efficiencies of the
configurations are one Gaussian process with the kernel exp(-sum of scaled distances) (an Ornstein-Uhlenbeck
sheet; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 4.2): close
to linear interpolation in between, without its need for a full grid, and it smooths the noise of single
timings. The roofline is the plain one, FLOPs and HBM bytes, since steps of waves and tiles are in the
timings already. Between points of the grid, log-efficiency is linear in the logarithm of each dimension, so
that steps and dips that were measured stay where they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.limits import refuse_impossible
from servegym.costmodels.kernels.schema import OPERATORS, KernelTimings
from servegym.costmodels.operators.layouts import LAYOUTS, Layout
from servegym.costmodels.operators.roofline import Efficiency, RooflineModel, broadcast_shapes
from servegym.costmodels.operators.work import UNITS, Floats, Work, work
from servegym.costmodels.specs import GpuSpec

Key = tuple[str, str, str, str]
"""Operator, dtype, KV dtype, variant."""

NOISES = (0.005, 0.02)
"""Variance of a single timing, of that of the efficiencies: the better is chosen with the scale."""
OUTLIER = float(np.log(3))
"""A timing that differs by more than this factor from what its neighbours say is replaced by that."""


class MeasuredModel:
    """Interpolates measured tables of one GPU (a `KernelModel`).

    extrapolate: "" refuses shapes outside the tables; "roofline" takes the efficiency at the edge of the
    table times the roofline, and where a table is missing altogether the bare roofline. `covers` tells
    which results are of that kind.
    """

    def __init__(
        self,
        timings: Iterable[KernelTimings],
        gpu: GpuSpec,
        *,
        extrapolate: Literal["", "roofline"] = "",
        name: str = "measured",
    ) -> None:
        self.gpu, self.name, self.extrapolate = gpu, name, extrapolate
        self.roofline = RooflineModel(gpu)
        self._timings: dict[Key, KernelTimings] = {}
        self._tables: dict[Key, Table] = {}
        for each in timings:
            key = (each.operator, each.dtype, each.kv_dtype, each.variant)
            if key in self._timings:
                raise InputError(f"{each.source}: a second table of {_name(key)}")
            refuse_impossible([each], gpu)
            self._timings[key] = each

    def seconds(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> Floats:
        """See `KernelModel`. Without a variant: the only one there is."""
        floats = broadcast_shapes(operator, shapes)
        table = self._table((operator, dtype, kv_dtype, variant))
        if table is None:
            return self.roofline.seconds(operator, floats, dtype=dtype, kv_dtype=kv_dtype)
        if not self.extrapolate:
            table.require_covered(floats)
        return table.seconds(floats)

    def covers(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> npt.NDArray[np.bool_]:
        """True for shapes inside the table; False: `seconds` raises, or extrapolates if told to."""
        floats = broadcast_shapes(operator, shapes)
        table = self._table((operator, dtype, kv_dtype, variant))
        if table is None:
            return np.zeros(next(iter(floats.values())).shape, np.bool_)
        return table.covers(floats)

    def _table(self, key: Key) -> "Table | None":
        """The table asked for, built when first asked for; None where the roofline is to stand in."""
        if key not in self._timings and not key[3]:
            variants = [each for each in self._timings if each[:3] == key[:3]]
            if len(variants) > 1:
                raise InputError(f"{_name(key)}: variant must be one of {', '.join(v[3] for v in variants)}")
            key = variants[0] if variants else key
        if key not in self._timings:
            if self.extrapolate:
                return None
            known = "; ".join(map(_name, self._timings)) or "none"
            raise InputError(f"no table of {_name(key)}: there are {known}")
        if key not in self._tables:
            self._tables[key] = Table(self._timings[key], self.gpu)
        return self._tables[key]


def _name(key: Key) -> str:
    operator, dtype, kv_dtype, variant = key
    return f"{operator} {dtype}" + (f" kv {kv_dtype}" if kv_dtype != "bf16" else "") + f" {variant}".rstrip()


def join_variants(timings: Iterable[KernelTimings]) -> list[KernelTimings]:
    """Tables that differ in nothing but the variant made one, where they have no shape in common: then the
    variant is the kernel that the software chose for the shape.
    """
    joined: dict[tuple[str, str, str, str, str], list[KernelTimings]] = {}
    for each in timings:
        key = (each.operator, each.device, each.software, each.dtype, each.kv_dtype)
        joined.setdefault(key, []).append(each)
    return [each for tables in joined.values() for each in _join(tables)]


def _join(tables: list[KernelTimings]) -> list[KernelTimings]:
    first = tables[0]
    shapes = {
        name: np.concatenate([each.shapes[name] for each in tables]) for name in OPERATORS[first.operator]
    }
    rows = np.stack(list(shapes.values()), 1)
    if len(tables) == 1 or len(np.unique(rows, axis=0)) < len(rows):
        return tables
    return [
        replace(
            first,
            shapes=shapes,
            seconds=np.concatenate([each.seconds for each in tables]),
            rows=np.concatenate([each.rows for each in tables]),
            variant="",
        )
    ]


class Table:
    """One table of one operator on `gpu`."""

    def __init__(self, timings: KernelTimings, gpu: GpuSpec) -> None:
        self.gpu = gpu
        self.operator, self.dtype, self.kv_dtype = timings.operator, timings.dtype, timings.kv_dtype
        self.layout: Layout = LAYOUTS[timings.operator]
        shapes = broadcast_shapes(timings.operator, timings.shapes)
        self.low = {name: values.min() for name, values in shapes.items()}
        self.high = {name: values.max() for name, values in shapes.items()}
        self._features = self.layout.features(shapes)
        self._log_efficiency = np.log(timings.seconds / self._roofline_s(shapes))
        self._axes = [np.unique(np.log1p(shapes[name])) for name in self.layout.grid]
        at = [
            np.searchsorted(axis, np.log1p(shapes[name]))
            for axis, name in zip(self._axes, self.layout.grid, strict=True)
        ]
        node = self._node(at, len(timings))
        order = np.argsort(node, kind="stable")
        ids, first = np.unique(node[order], return_index=True)
        self._rows = dict(zip(ids.tolist(), np.split(order, first[1:]), strict=True))
        self._weights: dict[int, tuple[Floats, Floats, float]] = {}
        self.scale, self.noise = self._choose_kernel(timings)

    def seconds(self, shapes: Mapping[str, Floats]) -> Floats:
        """Seconds; outside the table with the efficiency at its edge."""
        form = next(iter(shapes.values())).shape
        shapes = {name: values.ravel() for name, values in shapes.items()}
        total = next(iter(shapes.values())).size
        features = np.clip(self.layout.features(shapes), self._features.min(0), self._features.max(0))
        value, weight = np.zeros(total), np.zeros(total)
        for node, share in self._corners(shapes, total):
            for each in np.unique(node[share > 0]).tolist():
                if each in self._rows:
                    mine = (node == each) & (share > 0)
                    value[mine] += share[mine] * self._predict(each, features[mine])
                    weight[mine] += share[mine]
        for row in np.flatnonzero(weight == 0):
            nearest = self._nearest({name: values[row] for name, values in shapes.items()})
            value[row], weight[row] = self._predict(nearest, features[row : row + 1])[0], 1.0
        return np.asarray(self._roofline_s(shapes) * np.exp(value / weight)).reshape(form)

    def covers(self, shapes: Mapping[str, Floats]) -> npt.NDArray[np.bool_]:
        """Whether all dimensions are in range and all points of the grid around were measured."""
        form = next(iter(shapes.values())).shape
        shapes = {name: values.ravel() for name, values in shapes.items()}
        covered = self._in_range(shapes)
        for node, share in self._corners(shapes, len(covered)):
            covered &= (share == 0) | np.isin(node, list(self._rows))
        return covered.reshape(form)

    def _in_range(self, shapes: Mapping[str, Floats]) -> npt.NDArray[np.bool_]:
        inside = [(self.low[name] <= each) & (each <= self.high[name]) for name, each in shapes.items()]
        return np.asarray(np.logical_and.reduce(inside))

    def require_covered(self, shapes: Mapping[str, Floats]) -> None:
        """Raises InputError naming the first shape outside the table, and what the table covers."""
        covered = self.covers(shapes).ravel()
        if covered.all():
            return
        row = int(np.argmin(covered))
        shape = ", ".join(f"{name} {values.ravel()[row]:g}" for name, values in shapes.items())
        ranges = ", ".join(f"{name} {self.low[name]:g} to {self.high[name]:g}" for name in shapes)
        raise InputError(
            f"{self.operator} {self.dtype} with {shape}: outside the measured table, which covers {ranges}"
            + (f", not every combination of {', '.join(self.layout.grid)}" if self.layout.grid else "")
        )

    def _roofline_s(self, shapes: Mapping[str, Floats]) -> Floats:
        asked = work(self.operator, shapes, self.gpu, self.dtype, self.kv_dtype)
        return plain_roofline_s(asked, self.gpu, self.dtype)

    def _node(self, at: list[npt.NDArray[np.intp]], total: int) -> npt.NDArray[np.intp]:
        if not at:
            return np.zeros(total, np.intp)
        return np.ravel_multi_index(tuple(at), tuple(len(axis) for axis in self._axes))

    def _corners(self, shapes: Mapping[str, Floats], total: int) -> list[tuple[npt.NDArray[np.intp], Floats]]:
        """The grid points around each shape, with their shares, which add up to 1."""
        corners: list[tuple[list[npt.NDArray[np.intp]], Floats]] = [([], np.ones(total))]
        for axis, name in zip(self._axes, self.layout.grid, strict=True):
            x = np.clip(np.log1p(shapes[name]), axis[0], axis[-1])
            high = np.clip(np.searchsorted(axis, x), 1, max(len(axis) - 1, 1))
            low = high - 1
            if len(axis) == 1:
                corners = [([*at, low], share) for at, share in corners]
                continue
            part = (x - axis[low]) / (axis[high] - axis[low])
            corners = [
                ([*at, index], share * by)
                for at, share in corners
                for index, by in ((low, 1 - part), (high, part))
            ]
        return [(self._node(at, total), share) for at, share in corners]

    def _nearest(self, shape: Mapping[str, float]) -> int:
        ids = np.fromiter(self._rows, np.intp)
        at = np.unravel_index(ids, tuple(len(axis) for axis in self._axes))
        distance = sum(
            np.abs(axis[index] - np.log1p(shape[name]))
            for axis, index, name in zip(self._axes, at, self.layout.grid, strict=True)
        )
        return int(ids[np.argmin(distance)])

    def _predict(self, node: int, features: Floats) -> Floats:
        if node not in self._weights:
            rows = self._rows[node]
            x = self._features[rows] * self.scale
            self._weights[node] = (x, *regression_weights(x, self._log_efficiency[rows], self.noise))
        x, weights, centre = self._weights[node]
        return centre + kernel(features * self.scale, x) @ weights

    def _choose_kernel(self, timings: KernelTimings) -> tuple[Floats, float]:
        """Scale (of the layout's) and noise with the least error on configurations left out whole, three
        folds of them, at up to 12 points of the grid.
        """
        choices = [(np.asarray(scale), noise) for scale in self.layout.scales for noise in NOISES]
        fold = self.layout.groups(timings) % 3
        errors = np.zeros(len(choices))
        for node in list(self._rows)[:: -(-len(self._rows) // 12)]:
            rows = self._rows[node]
            for left_out in (fold[rows] == each for each in range(3)):
                if left_out.all() or not left_out.any():
                    continue
                for i, (scale, noise) in enumerate(choices):
                    x, y = self._features[rows] * scale, self._log_efficiency[rows]
                    weights, centre = regression_weights(x[~left_out], y[~left_out], noise)
                    predicted = centre + kernel(x[left_out], x[~left_out]) @ weights
                    errors[i] += np.abs(predicted - y[left_out]).sum()
        return choices[int(np.argmin(errors))]


def kernel(a: Floats, b: Floats) -> Floats:
    """exp(-L1 distance) of the rows of `a` (N, D) and `b` (M, D): (N, M)."""
    distance = np.zeros((len(a), len(b)))
    for column in range(a.shape[1]):
        distance += np.abs(a[:, column, None] - b[None, :, column])
    return np.asarray(np.exp(-distance))


def regression_weights(x: Floats, y: Floats, noise: float) -> tuple[Floats, float]:
    """Weights w and centre c of the regression c + kernel(., x) w through `y`, single outliers replaced.

    What the neighbours say of a timing is its leave-one-out prediction (Rasmussen and Williams, section
    5.4.2, equation 5.12).
    """
    centre = float(np.median(y))
    inverse = np.linalg.inv(kernel(x, x) + noise * np.eye(len(x)))
    z = y - centre
    for _ in range(len(x) // 10):  # the worst first, as an outlier makes its neighbours look like some
        surprise = (inverse @ z) / np.diag(inverse)
        worst = int(np.argmax(np.abs(surprise)))
        if abs(surprise[worst]) <= OUTLIER:
            break
        z[worst] -= surprise[worst]
    return inverse @ z, centre


def plain_roofline_s(asked: Work, gpu: GpuSpec, dtype: str) -> Floats:
    """Launch, then the FLOPs needed, bytes from HBM or bytes over links at nominal rates."""
    return np.asarray(
        Efficiency().launch_s
        + np.maximum.reduce(
            [
                asked.flops / gpu.peak(UNITS[dtype]),
                asked.hbm_bytes / gpu.hbm_bytes_per_s,
                asked.link_bytes / gpu.nvlink_bytes_per_s,
            ]
        )
    )
