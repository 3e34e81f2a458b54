"""What clients ask beside prompts and outputs: patience, priorities, service-level objectives, images."""

from dataclasses import replace
from typing import Any

import numpy as np

from servegym.envs.scenario.config import ClientsConfig
from servegym.envs.workloads import Workload
from servegym.envs.workloads.slo import SloClass


def with_clients(workload: Workload, clients: ClientsConfig, seed: np.random.SeedSequence) -> Workload:
    """The same N requests with the columns that `clients` asks for; each has a stream of its own.

    cancel_after_s, priority, tenant, slo_class are replaced where they are drawn; images come on top of the
    prompt.
    """
    drawn = (clients.priority_shares, clients.tenant_shares, clients.slo_classes)
    if not (clients.cancel_share or clients.image_share or any(drawn)):
        return workload
    count = workload.num_requests
    patience, priorities, classes, images, tenants = map(np.random.default_rng, seed.spawn(5))
    columns: dict[str, Any] = {}
    if clients.cancel_share > 0:
        gives_up = patience.random(count) < clients.cancel_share
        seconds = np.maximum(patience.exponential(clients.mean_patience_s, count), np.finfo(float).tiny)
        columns["cancel_after_s"] = np.where(gives_up, seconds, np.inf)
    if clients.priority_shares:
        columns["priority"] = _draw(priorities, clients.priority_shares, count)
    if clients.tenant_shares:
        columns["tenant"] = _draw(tenants, clients.tenant_shares, count)
    if clients.slo_classes:
        columns["slo_class"] = _draw(classes, [each.share for each in clients.slo_classes], count)
        columns["slo_classes"] = tuple(
            SloClass(each.name, each.ttft_s, each.tpot_s) for each in clients.slo_classes
        )
    if clients.image_share > 0:
        tokens = np.where(images.random(count) < clients.image_share, clients.image_tokens, 0)
        columns |= {"image_tokens": tokens, "prompt_tokens": workload.prompt_tokens + tokens}
    return replace(workload, **columns)


def _draw(rng: np.random.Generator, shares: list[float], count: int) -> np.ndarray:
    """int (count,): positions in `shares`, each with its probability."""
    return np.minimum(np.searchsorted(np.cumsum(shares), rng.random(count), side="right"), len(shares) - 1)
