"""`load_elastic_cost`: the clock of a fleet from committed coefficients of prefills, by model and GPU.

`experiments/fits/fit_elastic.py` makes the files. All else is composed when it is loaded.
"""

import json
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

import numpy as np

from servegym.costmodels.elastic.compose import exchange_seconds, group_iteration_cost
from servegym.costmodels.elastic.cost import ElasticCost, validate_elastic_cost
from servegym.costmodels.elastic.prefill_law import PrefillLaw
from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import gpu_spec, model_spec
from servegym.costmodels.transfer import INFINIBAND_LOONGSERVE, NVLINK_A800, Link


class Degree(NamedTuple):
    """How many instances, of how many GPUs each, and whether they stand in more than one node."""

    tensor_parallel: int
    instances: int
    crosses: bool


def elastic_folder() -> Traversable:
    """Where the package keeps its coefficients."""
    return resources.files("servegym.costmodels") / "profiles" / "elastic"


def elastic_preset_name(model: str, gpu: str) -> str:
    """Of a file, without its ending."""
    return f"{model}-{gpu}"


def load_prefill_laws(model: str, gpu: str) -> dict[Degree, PrefillLaw]:
    """The committed coefficients. InputError where there are none, with the list of those there are."""
    folder, name = elastic_folder(), elastic_preset_name(model, gpu)
    file = folder / f"{name}.json"
    if not file.is_file():
        there = sorted(each.name.removesuffix(".json") for each in folder.iterdir())
        raise InputError(f"no coefficients of {model} on {gpu}: there are {', '.join(there)}")
    rows = json.loads(file.read_text(encoding="utf-8"))["prefill"]
    return {
        Degree(row["tensor_parallel"], row["instances"], row["crosses"]): PrefillLaw(
            row["constant_s"], row["per_token_s"], row["per_token_squared_s"]
        )
        for row in rows
    }


def load_elastic_cost(
    model: str,
    gpu: str,
    tensor_parallel: int,
    instances: int,
    instances_per_node: int,
    *,
    decode_s: float = 0.0,
    max_requests: int = 1536,
    node_link: Link = NVLINK_A800,
    far_link: Link = INFINIBAND_LOONGSERVE,
) -> ElasticCost:
    """The clock of `instances` instances of `tensor_parallel` GPUs, `instances_per_node` on each node.

    decode_s: of every decode iteration; 0: composed, for groups of up to `max_requests`. The links, of a GPU,
    are those that KV moves over and decodes exchange queries over; prefills were fitted with the data sheet's
    NVLink and LoongServe's InfiniBand. InputError where a degree has no coefficients.
    """
    for name, value in (
        ("instances", instances),
        ("instances_per_node", instances_per_node),
        ("max_requests", max_requests),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}, must be at least 1")
    laws = load_prefill_laws(model, gpu)
    prefill_s = np.zeros((2, instances + 1, 3))
    for k in range(1, instances + 1):
        for crosses in (False, True):
            # Those that cannot be have what the others take.
            stays = k == 1 or instances <= instances_per_node
            degree = Degree(tensor_parallel, k, not stays and (crosses or k > instances_per_node))
            if degree not in laws:
                raise InputError(_missing(model, gpu, degree, laws))
            law = laws[degree]
            prefill_s[int(crosses), k] = law.constant_s, law.per_token_s, law.per_token_squared_s
    spec, links = model_spec(model), (node_link, far_link)

    kv_bytes = spec.kv_bytes_per_token / tensor_parallel
    cost = ElasticCost(
        prefill_s=prefill_s,
        decode_s=float(decode_s),
        iteration=group_iteration_cost(spec, gpu_spec(gpu), tensor_parallel, max_requests),
        exchange_s=np.array([exchange_seconds(spec, tensor_parallel, max_requests, link) for link in links]),
        migrate_s_per_token=np.array([kv_bytes / link.bytes_per_s for link in links]),
        migrate_latency_s=np.array([link.latency_s for link in links]),
    )
    validate_elastic_cost(cost)
    return cost


def _missing(model: str, gpu: str, wanted: Degree, there: Iterable[Degree]) -> str:
    where = "in more than one node" if wanted.crosses else "in one node"
    alike = [each for each in there if each.crosses == wanted.crosses]
    tensor = sorted({each.tensor_parallel for each in alike})
    if wanted.tensor_parallel not in tensor:
        return (
            f"tensor_parallel is {wanted.tensor_parallel}, must be one of {', '.join(map(str, tensor))}: "
            f"coefficients of {model} on {gpu}"
        )
    most = max(each.instances for each in alike if each.tensor_parallel == wanted.tensor_parallel)
    return (
        f"sequence parallelism {wanted.instances} of tensor_parallel {wanted.tensor_parallel} {where} has no "
        f"coefficients of {model} on {gpu}, must be at most {most}"
    )
