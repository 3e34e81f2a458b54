"""What a graph may consist of before ONNX Runtime sees it.

A runtime for any graph there is does more than a policy needs: it opens files that hold weights, runs loops
and functions, and loads operators by name. Only what `servegym export` writes is let through: plain
operators, weights in the file itself, and the inputs and the output of the level.
"""

import math
from collections import defaultdict

import numpy as np

from servegym.agents.serving.artifact.protobuf import fields, packed, signed
from servegym.agents.serving.artifact.schema import REPLICAS, Level
from servegym.costmodels.errors import InputError

OPERATORS = frozenset(
    """Abs Add And ArgMin Cast Ceil Clip Concat Div Equal Expand Gather GatherElements Gemm Greater
    GreaterOrEqual LayerNormalization LessOrEqual Log MatMul Mul Neg Not Or ReduceMax ReduceMin ReduceSum
    Relu Reshape Shape Sign Slice Softmax Squeeze Sub Transpose Unsqueeze Where""".split()  # noqa: SIM905
)
"""None runs another graph, draws at random, or makes arrays of a size that is a number in the file."""

ITEM_SIZES = {1: 4, 6: 4, 7: 8, 9: 1}
"""Bytes of an element, by ONNX's number of the type: float32, int32, int64, bool."""

FLOAT32, INT64 = 1, 7

LARGEST_INDEX = 1 << 16
"""Of whole numbers in the file, which are axes, bounds and shapes; the largest int64 means to the end."""

MOST_NODES, MOST_RANK = 4096, 8

# Numbers of fields in onnx.proto.
_MODEL = {1, 2, 3, 4, 5, 6, 7, 8, 14}
_GRAPH = {1, 2, 5, 10, 11, 12, 13, 16}
_NODE = {1, 2, 3, 4, 5, 6, 7, 9}
_ATTRIBUTE = {1, 2, 3, 4, 7, 8, 13, 20}
_TENSOR = {1, 2, 8, 9, 12, 14, 16}

_Message = dict[int, list[int | memoryview]]


def check_graph(content: bytes, level: Level, num_replicas: int | None, where: str) -> None:
    """InputError, naming `where`, unless the file is such a graph. num_replicas: None for any fleet."""
    try:
        model = _read(memoryview(content), _MODEL, "the model")
        for opset in _messages(model, 8):
            if bytes(_first(_fields(opset), 1)):
                raise ValueError("operators of another domain")
        (graph,) = _messages(model, 7)
        parts = _read(graph, _GRAPH, "the graph")
        nodes = _messages(parts, 1)
        if len(nodes) > MOST_NODES:
            raise ValueError(f"{len(nodes)} nodes; must be {MOST_NODES} at most")
        for node in nodes:
            _check_node(node)
        for tensor in _messages(parts, 5):
            _check_tensor(tensor)
        found = dict(_value(each) for each in _messages(parts, 11))
        due = {
            name: _shape(of.shape(1, -1), num_replicas, of.rows == REPLICAS)
            for name, of in level.inputs.items()
        }
        if list(found.items()) != list(due.items()):
            raise ValueError(f"inputs {found!r:.200}; must be {due}")
        outputs = [_value(each) for each in _messages(parts, 12)]
        if [name for name, _ in outputs] != ["logits"] or outputs[0][1] is None or len(outputs[0][1]) != 2:
            raise ValueError("its output must be logits, float32 of two axes")
    except ValueError as error:
        raise InputError(f"{where}: not a graph that servegym export wrote: {error}") from error


def _check_node(content: memoryview) -> None:
    node = _read(content, _NODE, "a node")
    operator = bytes(_first(node, 4)).decode(errors="replace")
    if operator not in OPERATORS or bytes(_first(node, 7)):
        raise ValueError(f"operator {operator!r:.60}")
    for each in _messages(node, 5):
        attribute = _read(each, _ATTRIBUTE, f"an attribute of {operator}")
        for value in (*_numbers(attribute[3]), *_numbers(attribute[8])):
            _check_index(value)


def _check_tensor(content: memoryview) -> None:
    tensor = _read(content, _TENSOR, "an array")
    dims = _numbers(tensor[1])
    kind, data = tensor[2][-1] if tensor[2] else 0, _first(tensor, 9)
    if not isinstance(kind, int) or kind not in ITEM_SIZES or any(tensor[14]):
        raise ValueError("an array of another type, or in another file")
    if len(dims) > MOST_RANK or any(not 0 <= each <= 1 << 31 for each in dims):
        raise ValueError("an array of an impossible shape")
    if math.prod(dims) * ITEM_SIZES[kind] != len(data):
        raise ValueError(f"an array of shape {dims} in {len(data)} bytes")
    if kind == INT64:
        for value in np.frombuffer(data, "<i8").tolist():
            _check_index(value)


def _check_index(value: int) -> None:
    if abs(value) > LARGEST_INDEX and value not in ((1 << 63) - 1, -(1 << 63)):
        raise ValueError(f"a size or place of {value}")


Dims = list[int | None]


def _value(content: memoryview) -> tuple[str, Dims | None]:
    """Name and shape of an input or output, None for an axis of any length; no shape if not of float32."""
    value = _fields(content)
    name = bytes(_first(value, 1)).decode(errors="replace")
    tensor = _fields(_first(_fields(_first(value, 2)), 1))
    if tensor[1] != [FLOAT32]:
        return name, None
    dims: Dims = []
    for each in _messages(_fields(_first(tensor, 2)), 1):
        length = _fields(each)[1]
        dims.append(length[0] if length and isinstance(length[0], int) else None)
    return name, dims


def _shape(shape: tuple[int, ...], num_replicas: int | None, of_replicas: bool) -> Dims:
    _, *rest = shape
    if of_replicas:
        return [None, num_replicas, *rest[1:]]
    return [None, *rest]


def _read(content: memoryview, allowed: set[int], what: str) -> _Message:
    found = _fields(content)
    if odd := set(found) - allowed:
        raise ValueError(f"{what} has field {min(odd)}")
    return found


def _fields(content: memoryview) -> _Message:
    found: _Message = defaultdict(list)
    for number, _, value in fields(content):
        found[number].append(value)
    return found


def _numbers(values: list[int | memoryview]) -> list[int]:
    """Whole numbers of a field that may be repeated, one by one or packed."""
    return [
        signed(each) for value in values for each in ([value] if isinstance(value, int) else packed(value))
    ]


def _messages(message: _Message, number: int) -> list[memoryview]:
    values = message[number]
    if not all(isinstance(value, memoryview) for value in values):
        raise ValueError(f"field {number} is a number")
    return values  # type: ignore[return-value]


def _first(message: _Message, number: int) -> memoryview:
    values = _messages(message, number)
    return values[-1] if values else memoryview(b"")
