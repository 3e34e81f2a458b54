"""How long a GPU takes: specifications, the roofline, and the time of one engine iteration."""

from servegym.costmodels.errors import InputError
from servegym.costmodels.iteration import (
    IterationCost,
    compile_iteration_cost,
    kv_capacity_blocks,
    linear_iteration_cost,
    validate_iteration_cost,
)
from servegym.costmodels.roofline import Roofline
from servegym.costmodels.specs import GPUS, MODELS, GpuSpec, ModelSpec, gpu_spec, model_spec

__all__ = [
    "GPUS",
    "MODELS",
    "GpuSpec",
    "InputError",
    "IterationCost",
    "ModelSpec",
    "Roofline",
    "compile_iteration_cost",
    "gpu_spec",
    "kv_capacity_blocks",
    "linear_iteration_cost",
    "model_spec",
    "validate_iteration_cost",
]
