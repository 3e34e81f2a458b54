"""An exported policy as a router policy."""

from collections.abc import Mapping

import numpy as np

from servegym.agents.serving.artifact.load import ExportedPolicy
from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.contracts import UNKNOWN
from servegym.costmodels.errors import InputError


class LearnedRouter:
    """Scores of an artifact of level `router` or `two_level`.

    setting: by name, all of SETTING_FEATURES: what an operator tells the policy once (`servegym deploy` takes
    them from a scenario). InputError for another level, and for a setting that lacks one or has another.
    """

    bounded = True

    def __init__(self, policy: ExportedPolicy, setting: Mapping[str, float], name: str = "learned") -> None:
        self.name = name
        self.num_replicas = policy.num_replicas
        self._policy = policy
        level = policy.description["level"]
        if level not in ("router", "two_level"):
            raise InputError(f"policy {name}: decides as {level}; must be router or two_level")
        self._observation = {
            name: np.zeros(of.shape(1, 1)[1:], np.float32) for name, of in policy.level.inputs.items()
        }
        self._observation["setting"] = setting_row(setting)

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        """float32 (R,); ValueError where the policy is for a fleet of another size."""
        observation = self._observation
        observation["request"], observation["replicas"] = request, replicas
        return self._policy.score_one(observation)[: len(replicas)]


def setting_row(setting: Mapping[str, float]) -> np.ndarray:
    """float32 (9,) from numbers by name; InputError for one that is missing, unknown or no number."""
    for name in setting:
        if name not in SETTING_FEATURES:
            raise InputError(f"setting.{name}: must be one of {', '.join(SETTING_FEATURES)}")
    missing = [name for name in SETTING_FEATURES if name not in setting]
    if missing:
        raise InputError(f"setting: must have {', '.join(missing)}")
    for name, value in setting.items():
        if not isinstance(value, int | float):
            raise InputError(f"setting.{name} = {value!r}: must be a number")
    row = np.array([float(setting[name]) for name in SETTING_FEATURES], np.float32)
    if not (np.isfinite(row).all() and (row >= 0).all()):
        raise InputError(f"setting = {dict(setting)}: must be finite numbers >= 0")
    return row
