"""A router network as one C file: its weights as arrays, before fixed code (`c/`).

Nothing of an artifact but numbers of checked shapes gets into the text; every name in it is written here.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from servegym.agents.serving.artifact.schema import (
    MOST_HIDDEN,
    MOST_LAYERS,
    MOST_REPLICAS,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    SETTING_FEATURES,
)
from servegym.agents.serving.networks.numpy_networks import router_gnn, router_mlp
from servegym.agents.serving.networks.numpy_networks.router_inputs import (
    COLUMNS,
    FORECASTS,
    REQUEST_INPUTS,
    Weights,
)
from servegym.costmodels.errors import InputError

FOLDER = Path(__file__).with_name("c")

LANES, MOST_WIDTH = 8, 64
"""Floats of a vector, and of the columns of a layer that are summed up at once: as many as registers hold."""

MOST_NUMBERS = 4_000_000
"""Of an artifact that is compiled: beyond that a compiler takes minutes."""

SHAPES: dict[str, Callable[[int, int, int], dict[str, tuple[int, ...]]]] = {
    "mlp": router_mlp.shapes,
    "gnn": router_gnn.shapes,
}
"""Networks that can be compiled, with their arrays by name."""


def router_source(network: str, layers: int, weights: Weights) -> str:
    """C of a network of SHAPES, with the functions of `c/scores.c`.

    weights: arrays of `policy.npz` by name. InputError for another network, for arrays that are missing, of
    another shape, no numbers, or more than is compiled.
    """
    if network not in SHAPES:
        raise InputError(f"network = {network}: only {' and '.join(SHAPES)} can be compiled")
    hidden, num_replicas = _sizes(network, layers, weights)
    _check(network, weights, SHAPES[network](hidden, layers, num_replicas))
    width = min(-(-hidden // LANES) * LANES, MOST_WIDTH)
    padded = -(-hidden // width) * width
    parts = [_sizes_text(num_replicas, padded, width, layers), _constants(weights)]
    parts += [_read("inputs.c"), _read("dense.c")]
    parts += _mlp(weights, layers, padded) if network == "mlp" else _gnn(weights, layers, padded)
    parts += [_read(f"{network}.c"), _read("scores.c")]
    return "\n".join(parts)


def _read(name: str) -> str:
    return (FOLDER / name).read_text()


def _sizes(network: str, layers: int, weights: Weights) -> tuple[int, int]:
    """Width and replicas (0: any), by which all other shapes are checked."""
    hidden = np.size(weights.get("trunk.0.bias" if network == "mlp" else "encode_replica.bias", ()))
    num_replicas = np.size(weights.get("score.bias", ())) if network == "mlp" else 0
    for what, size, limit in (
        ("hidden", hidden, MOST_HIDDEN),
        ("layers", layers, MOST_LAYERS),
        ("num_replicas", max(num_replicas, 1), MOST_REPLICAS),
        ("numbers", sum(map(np.size, weights.values())), MOST_NUMBERS),
    ):
        if not 1 <= size <= limit:
            raise InputError(f"{network} network with {what} = {size}: 1 to {limit} can be compiled")
    return hidden, num_replicas


def _check(network: str, weights: Weights, due: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in due.items():
        array = weights.get(name)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise InputError(f"{network} network: {name} is {found}; must be float32 {shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{network} network: {name} has numbers that are none")


def _sizes_text(num_replicas: int, hidden: int, width: int, layers: int) -> str:
    numbers = {
        "NUM_REPLICAS": num_replicas,
        "MOST_REPLICAS": MOST_REPLICAS,
        "HIDDEN": hidden,
        "WIDTH": width,
        "LAYERS": layers,
        "FORECASTS": len(FORECASTS),
    }
    lines = [f"#define {name} {number}" for name, number in numbers.items()]
    for count, names in (
        ("REQUEST_FEATURES", REQUEST_FEATURES),
        ("REPLICA_FEATURES", REPLICA_FEATURES),
        ("SETTING_FEATURES", SETTING_FEATURES),
    ):
        lines.append(f"enum {{ {', '.join(name.upper() for name in names)}, {count} }};")
    return "\n".join(lines) + "\n"


def _constants(weights: Weights) -> str:
    units, prior_s = weights["constants.replica_units"], weights["constants.prior_units_s"]
    ttft, marginal = (COLUMNS + 1 + FORECASTS.index(name) for name in ("ttft_s", "marginal_latency_s"))
    return "".join(
        [
            array_text("REQUEST_UNITS", weights["constants.request_units"]),
            array_text("QUANTITY_UNITS", units),
            array_text("DEPARTURE", weights["departure"]),
            array_text("PRIOR_WEIGHTS", weights["prior_weights"]),
            number_text("TTFT_PRIOR", units[ttft] / prior_s[0]),
            number_text("LATENCY_PRIOR", units[marginal] / prior_s[1]),
            number_text("WORST", weights["constants.worst_prior"][0]),
            number_text("LONGEST_S", weights["constants.longest_s"][0]),
        ]
    )


def _mlp(weights: Weights, layers: int, hidden: int) -> list[str]:
    first = _turned(weights["trunk.0.weight"], hidden)
    others = [_turned(weights[f"trunk.{i}.weight"], hidden, hidden) for i in range(1, layers)]
    return [
        array_text("TRUNK_FROM_REQUEST", first[:REQUEST_INPUTS]),
        array_text("TRUNK_FROM_REPLICAS", first[REQUEST_INPUTS:]),
        _arrays("TRUNK_BIAS", (_padded(weights[f"trunk.{i}.bias"], hidden) for i in range(layers))),
        _arrays("TRUNK", others or [_NONE]),
        array_text("SCORE", _padded(weights["score.weight"], hidden)),
        array_text("SCORE_BIAS", weights["score.bias"]),
    ]


def _gnn(weights: Weights, layers: int, hidden: int) -> list[str]:
    parts = []
    for name in ("request", "replica"):
        encode = _turned(weights[f"encode_{name}.weight"], hidden)
        parts.append(array_text(f"ENCODE_{name.upper()}", encode))
        bias = _padded(weights[f"encode_{name}.bias"], hidden)
        parts.append(array_text(f"ENCODE_{name.upper()}_BIAS", bias))
    # Nobody hears what the request hears last: those layers are not exported.
    for name, rounds in (
        ("replica_from_request", layers),
        ("replica_from_itself", layers),
        ("request_from_replicas", layers - 1),
        ("request_from_itself", layers - 1),
    ):
        names = [f"rounds.{i}.{name}" for i in range(rounds)]
        turned = [_turned(weights[f"{each}.weight"], hidden, hidden) for each in names]
        parts.append(_arrays(name.upper(), turned or [_NONE]))
        if not name.endswith("itself"):
            biases = [_padded(weights[f"{each}.bias"], hidden) for each in names]
            parts.append(_arrays(f"{name.upper()}_BIAS", biases or [_NONE]))
    score = array_text("SCORE", _padded(weights["score.weight"][0], hidden))
    return [*parts, score, array_text("SCORE_BIAS", weights["score.bias"])]


_NONE = np.zeros(1, np.float32)
"""In place of arrays that a network does not have."""


def _turned(weight: np.ndarray, columns: int, rows: int = 0) -> np.ndarray:
    """(inputs, outputs) of a layer (outputs, inputs), outputs filled up with zeros; inputs to `rows`."""
    turned = _padded(weight.T, columns)
    return np.pad(turned, ((0, max(0, rows - len(turned))), (0, 0)))


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    """Its last axis filled up with zeros."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])])


def number_text(name: str, value: float) -> str:
    """A constant of C."""
    return f"#define {name} {_text(value)}\n"


def array_text(name: str, array: np.ndarray) -> str:
    """An array of C with the numbers of `array`, float32."""
    # 64 bytes: a row of a layer begins with a cache line.
    body = ",".join(map(_text, array.ravel().tolist()))
    return f"static const float {name}[{array.size}] __attribute__((aligned(64))) = {{{body}}};\n"


def _arrays(name: str, arrays: Iterable[np.ndarray]) -> str:
    stacked = np.stack([each.ravel() for each in arrays])
    body = ",\n".join(f"{{{','.join(map(_text, row))}}}" for row in stacked.tolist())
    sizes = f"[{len(stacked)}][{stacked.shape[1]}]"
    return f"static const float {name}{sizes} __attribute__((aligned(64))) = {{\n{body}}};\n"


def _text(value: float) -> str:
    """Nine digits: the same float32 when it is read back."""
    return f"{value:.8e}f"
