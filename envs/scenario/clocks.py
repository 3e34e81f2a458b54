"""The clocks a scenario can choose: where the time of its iterations comes from."""

from collections.abc import Callable, Mapping

from servegym.costmodels.iterations.compile import compile_iteration_cost
from servegym.costmodels.iterations.composer import Parallelism, compose_iteration_cost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.iterations.presets import load_preset
from servegym.costmodels.operators.calibrated import calibrated_roofline
from servegym.costmodels.specs import GpuSpec, ModelSpec
from servegym.envs.sim.llm.engine import Engine

Clock = Callable[[ModelSpec, GpuSpec, int, Engine], IterationCost]
"""Of a model on so many GPUs of a kind, with the limits of an engine."""


def _roofline(model: ModelSpec, gpu: GpuSpec, tensor_parallel: int, engine: Engine) -> IterationCost:
    return compile_iteration_cost(
        model,
        gpu,
        tensor_parallel=tensor_parallel,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        max_kv_tokens=engine.num_kv_blocks * engine.block_size,
    )


def _calibrated(model: ModelSpec, gpu: GpuSpec, tensor_parallel: int, engine: Engine) -> IterationCost:
    return compose_iteration_cost(
        model,
        calibrated_roofline(gpu),
        parallelism=Parallelism(tensor=tensor_parallel),
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        max_kv_tokens=engine.num_kv_blocks * engine.block_size,
    )


def _measured(model: ModelSpec, gpu: GpuSpec, tensor_parallel: int, engine: Engine) -> IterationCost:
    return load_preset(
        gpu.name,
        model.name,
        tensor_parallel,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
    )


CLOCKS: Mapping[str, Clock] = {
    "roofline": _roofline,  # first principles, with rounded efficiencies
    "calibrated": _calibrated,  # first principles, with efficiencies fitted to timings of the GPU
    "measured": _measured,  # a committed preset made from kernel tables of the GPU
}
"""By the name in `costmodel.kind`."""
