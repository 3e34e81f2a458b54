"""Policies that are easy to check, and the deployment they route to; Ray imports this in its processes."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from ray import serve

from servegym.agents.serving.contracts import ILLEGAL, UNKNOWN
from servegym.agents.serving.plugins.ray_serve.routing_stats import routing_stats
from servegym.agents.serving.routing.fleet_view import AVAILABLE, OUTSTANDING_TOKENS, SPEED, WAITING


class ShortestBacklog:
    """Fewest tokens and requests, whatever the request: a rule that is easy to check."""

    name, bounded = "shortest_backlog", True

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        scores = -(replicas[:, OUTSTANDING_TOKENS] + 100.0 * replicas[:, WAITING])
        return np.where(replicas[:, AVAILABLE] > 0, scores, ILLEGAL).astype(np.float32)


class Fastest:
    """Always the replica that says it is the fastest, however many wait there."""

    name, bounded = "fastest", True

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        return np.where(replicas[:, AVAILABLE] > 0, replicas[:, SPEED], ILLEGAL).astype(np.float32)


class Raising:
    """A policy that is broken."""

    name, bounded = "raising", True

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        raise RuntimeError("broken")


class NotANumber:
    """A policy whose network has diverged."""

    name, bounded = "not_a_number", True

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        return np.full(len(replicas), np.nan, np.float32)


class Late:
    """A policy that thinks for ever."""

    name = "late"

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        time.sleep(0.05)
        return Fastest().scores(request, replicas)


class Unreadable(dict[str, Any]):
    """A request that does not say what is in it."""

    def __contains__(self, key: object) -> bool:
        raise TypeError("not to be asked")


class Engine:
    """A replica, which waits as long as a request says, and says who it is and how many it had at once.

    A replica of rank r reports a speed of 1 + r and 100 (1 + r) KV blocks in use.
    """

    def __init__(self) -> None:
        context = serve.get_replica_context()
        self.rank = context.rank.rank
        self.name = context.replica_id.unique_id
        self.ongoing = 0
        self.models: list[str] = []

    async def record_routing_stats(self) -> dict[str, float]:
        return routing_stats(
            {
                "running": self.ongoing,
                "speed": 1.0 + self.rank,
                "kv_used_blocks": 100.0 * (1 + self.rank),
                "kv_total_blocks": 1000.0,
                "ignored": 7.0,
            }
        )

    async def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        self.ongoing += 1
        ongoing = self.ongoing
        try:
            await asyncio.sleep(body.get("wait_s", 0.02))
        finally:
            self.ongoing -= 1
        if body.get("fail"):
            raise ValueError("this request fails")
        return {
            "replica": self.name,
            "ongoing": ongoing,
            "request": serve.context._get_serve_request_context().request_id,
        }

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[int]:
        for token in range(body["tokens"]):
            await asyncio.sleep(0.01)
            yield token

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> str:
        self.models.append(model_id)
        return model_id

    async def with_model(self, body: dict[str, Any]) -> dict[str, Any]:
        await self.load(serve.get_multiplexed_model_id())
        return {"replica": self.name}
