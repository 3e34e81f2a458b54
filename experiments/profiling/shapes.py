"""Which shapes to measure: those that the kernels of given models take, over a grid of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import OPERATORS
from servegym.costmodels.specs import ModelSpec
from servegym.experiments.profiling.settings import Grid

Shape = Mapping[str, int]

PER_MODEL = ("prefill_layer", "decode_layer")
"""Operators whose timings are told apart by the name of the model."""

MEASURED = (
    "gemm",
    "prefill_attention",
    "decode_attention",
    "normalisation",
    "activation",
    "sampling",
    *PER_MODEL,
    "all_reduce",
)
"""What `servegym profile` can measure."""


@dataclass(frozen=True)
class Job:
    """The shapes of one operator; of a layer, with its model."""

    operator: str
    shapes: Sequence[Shape]
    model: ModelSpec | None = None


def shapes(
    operator: str, models: Sequence[ModelSpec], tensor_parallel: Sequence[int], grid: Grid
) -> list[Shape]:
    """The shapes of an operator (of MEASURED, but not all_reduce) for all models and shards, each once."""
    found: dict[tuple[int, ...], None] = {}
    for model, tp in product(models, tensor_parallel):
        found.update(dict.fromkeys(_of_model(operator, model, tp, grid)))
    return [dict(zip(OPERATORS[operator], values, strict=True)) for values in found]


def check_shards(model: ModelSpec, tp: int) -> None:
    """InputError where `tp` GPUs cannot share the heads and the feed-forward of a model evenly."""
    if tp < 1 or model.num_kv_heads % tp or model.ffn_size % tp:
        raise InputError(
            f"tensor_parallel = {tp}: must divide the {model.num_kv_heads} KV heads and the feed-forward "
            f"width {model.ffn_size} of {model.name}"
        )


def _of_model(operator: str, model: ModelSpec, tp: int, grid: Grid) -> Iterator[tuple[int, ...]]:
    heads, kv_heads, ffn = model.num_heads // tp, model.num_kv_heads // tp, model.ffn_size // tp
    hidden, width, vocab = model.hidden_size, model.head_dim, -(-model.vocab_size // tp)
    attention = (heads, kv_heads, width, 0)
    if operator == "gemm":
        qkv, out = ((heads + 2 * kv_heads) * width, hidden), (hidden, heads * width)
        for m, (n, k) in product(grid.tokens, (qkv, out, (2 * ffn, hidden), (hidden, ffn))):
            yield m, n, k
        for m in grid.sequences:
            yield m, vocab, hidden
    elif operator == "prefill_attention":
        yield from ((*batch, *attention) for batch in _prefills(grid))
    elif operator == "decode_attention":
        yield from ((*batch, *attention) for batch in _decodes(grid))
    elif operator == "prefill_layer":
        yield from ((*batch, tp) for batch in _prefills(grid))
    elif operator == "decode_layer":
        yield from ((*batch, tp) for batch in _decodes(grid))
    elif operator == "sampling":
        yield from ((m, model.vocab_size) for m in grid.sequences)
    else:
        row = {"normalisation": hidden, "activation": ffn}[operator]
        yield from ((m, row) for m in grid.tokens)


def _prefills(grid: Grid) -> Iterable[tuple[int, int, int]]:
    batches = product(grid.prefill_batch, grid.prefill_tokens, grid.prefill_history)
    return (each for each in batches if each[0] * (each[1] + each[2]) <= grid.max_prefill_tokens)


def _decodes(grid: Grid) -> Iterable[tuple[int, int]]:
    batches = product(grid.sequences, grid.decode_history)
    return (each for each in batches if each[0] * each[1] <= grid.max_decode_tokens)
