"""Answers of commands as JSON."""

import json
import math
from typing import Any

import numpy as np


def to_json(answer: Any) -> str:
    """One line of strict JSON: NumPy's numbers as plain ones, null for what is not finite."""
    return json.dumps(plain(answer), allow_nan=False)


def plain(value: Any) -> Any:
    """The same in JSON's own types."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
