"""The peer of the kernel models: random forests over shapes, as Vidur uses (Agrawal et al., MLSys 2024)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.kernels.schema import OPERATORS, KernelTimings
from servegym.costmodels.operators.kernel_model import KernelModel
from servegym.costmodels.operators.roofline import broadcast_shapes
from servegym.costmodels.operators.work import Floats

TREES, DEPTH = 250, 32
"""The first and the last of the grids that Vidur searches."""


class RandomForest:
    """A `KernelModel` of one table: seconds from the raw dimensions."""

    name = "random forest"

    def __init__(self, timings: KernelTimings) -> None:
        ensemble: Any = import_module("sklearn.ensemble")  # no dependency of ours
        self._forest = ensemble.RandomForestRegressor(TREES, max_depth=DEPTH, random_state=0)
        self._forest.fit(_columns(timings.operator, timings.shapes), timings.seconds)

    def seconds(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> Floats:
        """See `KernelModel`."""
        return np.asarray(self._forest.predict(_columns(operator, shapes)), np.float64)


def random_forest() -> Callable[[KernelTimings], KernelModel] | None:
    """The peer, where scikit-learn is installed; it is no dependency of ours."""
    return RandomForest if find_spec("sklearn") else None


def _columns(operator: str, shapes: Mapping[str, npt.ArrayLike]) -> Floats:
    floats = broadcast_shapes(operator, shapes)
    return np.stack([floats[name] for name in OPERATORS[operator]], 1)
