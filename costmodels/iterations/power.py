"""The power of a replica's GPUs for compiled code: joules of an iteration, as power.py has them."""

from typing import NamedTuple

from servegym.costmodels.native.jit import kernel
from servegym.costmodels.power import PowerModel
from servegym.costmodels.specs import GpuSpec, ModelSpec


class IterationPower(NamedTuple):
    """A `PowerModel` for one model on one kind of replica, with all its GPUs together."""

    full_w: float  # TDP of all GPUs
    idle: float  # share of it
    memory: float
    compute: float
    weights_s: float  # to read the weights at nominal bandwidth
    s_per_kv_token: float  # likewise
    s_per_token: float  # of the model's FLOPs, at peak


NO_POWER = IterationPower(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def iteration_power(
    model: ModelSpec, gpu: GpuSpec, tensor_parallel: int = 1, power: PowerModel | None = None
) -> IterationPower:
    """Of `tensor_parallel` GPUs that serve a model together."""
    power = power or PowerModel()
    bytes_per_s = gpu.hbm_bytes_per_s * tensor_parallel
    return IterationPower(
        full_w=float(gpu.tdp_w * tensor_parallel),
        idle=min(float(power.idle), 1.0),
        memory=float(power.memory),
        compute=float(power.compute),
        weights_s=float(model.weight_bytes / bytes_per_s),
        s_per_kv_token=float(model.kv_bytes_per_token / bytes_per_s),
        s_per_token=float(2.0 * model.parameter_count / (gpu.peak(model.dtype) * tensor_parallel)),
    )


@kernel
def joules_above_idle(power: IterationPower, seconds: float, num_tokens: int, kv_tokens: int) -> float:
    """What an iteration takes beyond what the GPUs draw anyhow: `iteration_joules` minus idle power.

    Of `num_tokens` new tokens, with `kv_tokens` read and written.
    """
    moving_s = min(power.weights_s + kv_tokens * power.s_per_kv_token, seconds)
    computing_s = min(num_tokens * power.s_per_token, seconds)
    full_s = power.idle * seconds + power.memory * moving_s + power.compute * computing_s
    return power.full_w * (min(full_s, seconds) - power.idle * seconds)
