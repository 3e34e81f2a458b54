"""`KernelModel`: anything that says how long a kernel takes."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt


class KernelModel(Protocol):
    """The one interface of the roofline, the calibrated roofline and measured tables, for one device."""

    name: str

    def seconds(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> npt.NDArray[np.float64]:
        """Seconds of `operator` (a key of kernels.schema.OPERATORS) at broadcastable shapes.

        Raises InputError naming operator, shape and covered range for what the model does not cover.
        """
