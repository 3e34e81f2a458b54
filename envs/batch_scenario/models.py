"""From the configuration of a scenario to its cluster: models with latencies and objectives, GPUs, delays."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from servegym.costmodels.batch import LinearBatchLatency, TabulatedBatchLatency
from servegym.costmodels.errors import InputError
from servegym.costmodels.zoo import zoo
from servegym.envs.batch_scenario.config import (
    BatchScenarioConfig,
    DelaysConfig,
    ServedModelConfig,
    ZooConfig,
)
from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import BatchLatency, ServedModel
from servegym.envs.workloads.popularity import read_shares, zipf_shares

MOST_REQUESTS = 4096
"""The largest batch that is looked for where a model does not say its own."""


def cluster_of(config: BatchScenarioConfig) -> BatchCluster:
    """The cluster of a scenario. InputError naming the key, or the model, that does not fit."""
    if bool(config.models) == (config.zoo.gpu is not None):
        raise InputError("scenario.models, scenario.zoo.gpu: exactly one of them must be given")
    delays = _delays(config.delays)
    if config.models:
        models = [_listed(model, delays) for model in config.models]
    else:
        models = list(_of_zoo(config.zoo))
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"scenario.models: {name} is given twice")
    memory_gb = config.fleet.memory_gb
    if memory_gb < math.inf and not any(model.memory_bytes for model in models):
        raise InputError(
            f"scenario.fleet.memory_gb = {memory_gb:g}: must be inf where no model has a memory_gb, "
            "as none of the zoo has"
        )
    return BatchCluster(tuple(models), config.fleet.num_gpus, delays, memory_gb * 1e9)


def shares_of(config: BatchScenarioConfig, num_models: int) -> npt.NDArray[np.float64]:
    """(num_models,) of the requests that ask for each model. InputError where they do not add up to 1."""
    workload = config.workload
    if workload.popularity == "shares":
        if not config.models:
            raise InputError("scenario.workload.popularity = shares: must be equal or zipf with a zoo")
        return read_shares([model.share for model in config.models])
    return zipf_shares(num_models, workload.zipf_exponent if workload.popularity == "zipf" else 0.0)


def _delays(config: DelaysConfig) -> Delays:
    try:
        return Delays(config.control_ms * 1e-3, config.data_ms * 1e-3, config.response_ms * 1e-3)
    except InputError as error:
        raise InputError(f"scenario.{error}") from None


def _listed(config: ServedModelConfig, delays: Delays) -> ServedModel:
    slo_s = config.slo_ms * 1e-3
    law: BatchLatency
    try:
        if config.batch:
            law = TabulatedBatchLatency(tuple(config.batch), tuple(each * 1e-3 for each in config.latency_ms))
        else:
            assert config.alpha_ms is not None and config.beta_ms is not None  # checked by the schema
            law = LinearBatchLatency(config.alpha_ms * 1e-3, config.beta_ms * 1e-3)
    except InputError as error:
        raise InputError(f"model {config.name}: {error}") from None
    most = config.batch[-1] if config.batch else MOST_REQUESTS
    max_batch = config.max_batch
    if max_batch is None:
        if not slo_s < math.inf:
            raise InputError(f"model {config.name}: max_batch: must be given without an objective")
        max_batch = _largest_in_time(law, most, slo_s, delays)
    elif max_batch > most:
        raise InputError(f"model {config.name}: max_batch = {max_batch}: must be at most {most}")
    return ServedModel.of_law(
        config.name,
        law,
        max_batch,
        slo_s,
        energy_j=_joules(config, max_batch),
        load_s=config.load_ms * 1e-3,
        memory_bytes=config.memory_gb * 1e9,
    )


def _joules(config: ServedModelConfig, max_batch: int) -> tuple[float, ...]:
    """Of a batch of 1 to `max_batch`; empty where none are given."""
    if config.alpha_j == config.beta_j == 0:
        return ()
    return tuple((config.alpha_j * np.arange(1, max_batch + 1) + config.beta_j).tolist())


def _largest_in_time(law: BatchLatency, most: int, slo_s: float, delays: Delays) -> int:
    """At least 1, so that whoever cannot even do that is refused by what checks it."""
    sizes = np.arange(1, most + 1)
    total_s = law.seconds(sizes) + delays.lead_s(0) + delays.data_s * sizes + delays.response_s
    return max(1, int((total_s <= slo_s).sum()))


def _of_zoo(config: ZooConfig) -> Iterator[ServedModel]:
    assert config.gpu is not None
    try:
        networks = zoo(config.gpu)
    except InputError as error:
        raise InputError(f"scenario.zoo.gpu = {config.gpu}: {error}") from None
    for number in range(config.count or len(networks)):
        copy, which = divmod(number, len(networks))
        network = networks[which]
        law = network.linear if config.law == "linear" else network.latency
        largest = network.latency.batch[-1]
        slo_s = config.slo_factor * float(law.seconds(min(config.slo_batch, largest)))
        model = ServedModel.of_law(
            network.name, law, min(config.max_batch, largest), max(slo_s, config.min_slo_ms * 1e-3)
        )
        yield replace(model, name=f"{model.name}-copy{copy}") if copy else model
