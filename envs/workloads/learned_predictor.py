"""A trained predictor of output lengths, evaluated with NumPy alone (trained in agents/length_predictor)."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.length_features import FEATURES, length_features
from servegym.envs.workloads.workload import MAX_TOKENS, Workload

Floats = npt.NDArray[np.float64]

PREDICTOR_FILE = "predictor.npz"
"""Its name in the folder that `servegym predictor` writes."""

_LIMIT = 5.0  # standard deviations: what lies further out than training ever saw is taken as being there


@dataclass(frozen=True, eq=False)
class FeatureScale:
    """Features (N, F) as inputs of a network (N, 2 F): standardised, then 1 where known.

    A feature that is NaN, or that training never saw, is its mean and is not known.
    """

    mean: Floats  # (F,)
    deviation: Floats  # (F,), above 0
    used: npt.NDArray[np.bool_]  # (F,) whether training saw it

    @classmethod
    def fit(cls, features: Floats) -> "FeatureScale":
        """Mean and standard deviation of what is known."""
        known = ~np.isnan(features)
        used = known.any(axis=0)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, features, 0.0).sum(axis=0) / count
        deviation = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(axis=0) / count)
        return cls(mean, np.where(deviation > 1e-9, deviation, 1.0), np.asarray(used))

    def inputs(self, features: Floats) -> Floats:
        """(N, 2 F)."""
        known = ~np.isnan(features) & self.used
        scaled = np.where(known, (features - self.mean) / self.deviation, 0.0)
        return np.concatenate([np.clip(scaled, -_LIMIT, _LIMIT), known], axis=1)


@dataclass(frozen=True, eq=False)
class LearnedPredictor:
    """A network of ReLU layers that scores requests, and a monotone map from scores to lengths.

    `layers`: weights (out, in) and biases (out,), as torch has them. The log length is interpolated in
    `log_lengths` at `knots`, both (K,) ascending, and constant beyond them. `trained_on` says on what, as
    `Traffic.held_out` does: the trace, and how many seconds at its end training has not seen; None: on
    generated requests.
    """

    scale: FeatureScale
    layers: tuple[tuple[Floats, Floats], ...]
    knots: Floats
    log_lengths: Floats
    loss: str
    trained_on: dict[str, Any] | None = None

    def scores(self, features: Floats) -> Floats:
        """(N,) higher where the output is longer; of any scale. Features (N, F) as in `length_features`."""
        hidden = self.scale.inputs(features)
        for weights, biases in self.layers[:-1]:
            hidden = np.maximum(hidden @ weights.T + biases, 0.0)
        weights, biases = self.layers[-1]
        return np.asarray((hidden @ weights.T + biases)[:, 0])

    def lengths(self, features: Floats) -> npt.NDArray[np.int32]:
        """(N,) tokens, at least 1."""
        log_lengths = np.interp(self.scores(features), self.knots, self.log_lengths)
        return np.clip(np.rint(np.exp(log_lengths)), 1, MAX_TOKENS).astype(np.int32)

    def predict(self, workload: Workload) -> npt.NDArray[np.int32]:
        """Predicted output lengths (N,) of a workload, tokens, at least 1."""
        return self.lengths(length_features(workload))

    def write(self, file: BinaryIO) -> None:
        """Writes what `load` reads."""
        arrays: dict[str, Any] = {
            f"{kind}_{k}": array
            for k, layer in enumerate(self.layers)
            for kind, array in zip(("weights", "biases"), layer, strict=True)
        }
        about = {
            "features": FEATURES,
            "layers": len(self.layers),
            "loss": self.loss,
            "trained_on": self.trained_on,
        }
        np.savez(
            file,
            about=np.array(json.dumps(about)),
            mean=self.scale.mean,
            deviation=self.scale.deviation,
            used=self.scale.used,
            knots=self.knots,
            log_lengths=self.log_lengths,
            **arrays,
        )

    @classmethod
    def load(cls, path: str | Path) -> "LearnedPredictor":
        """From the folder that `servegym predictor` wrote, or from the file in it.

        InputError where there is none, or where it was trained on other features than these.
        """
        file = Path(path) / PREDICTOR_FILE if Path(path).is_dir() else Path(path)
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            raise InputError(
                f"{file}: no such predictor of output lengths; must be what servegym predictor wrote"
            ) from None
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(f"{file}: is no predictor of output lengths ({error})") from None
        return cls._from_arrays(file, arrays)

    @classmethod
    def _from_arrays(cls, file: Path, arrays: dict[str, npt.NDArray[Any]]) -> "LearnedPredictor":
        try:
            about = json.loads(str(arrays["about"]))
            features = tuple(about["features"])
            predictor = cls(
                FeatureScale(arrays["mean"], arrays["deviation"], arrays["used"]),
                tuple((arrays[f"weights_{k}"], arrays[f"biases_{k}"]) for k in range(about["layers"])),
                arrays["knots"],
                arrays["log_lengths"],
                about["loss"],
                about["trained_on"],
            )
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{file}: is no predictor of output lengths (lacks {error})") from None
        if features != FEATURES:
            differing = sorted(set(features) ^ set(FEATURES)) or ["the order"]
            raise InputError(
                f"{file}: was trained on other features, which differ in {', '.join(differing)}; must be "
                "trained again with this version: servegym predictor"
            )
        return predictor
