"""The request router that a Ray Serve deployment is given: it asks our `Router`, and keeps its books exact.

Serve may ask several times where one request shall go: a replica may refuse it, or die before it takes it.
The policy decides once; whoever asks again gets the next best that has room.
"""

import itertools
import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import MultiplexMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from servegym.agents.serving.config import load_config, router_from_config, router_policy, serving_config
from servegym.agents.serving.contracts import UNKNOWN
from servegym.agents.serving.plugins.ray_serve.requests import routed_request
from servegym.agents.serving.plugins.ray_serve.routing_stats import tell
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router
from servegym.costmodels.errors import InputError

_LOG = logging.getLogger("servegym.ray_serve")

TRANSIT_LIMIT_S = 60.0
"""A request that no replica has taken after so long never will be: its caller went away without a word."""

REFUSED_LIMIT_S = 1.0
"""The same after a replica has said that it is through with a request it never took."""


class _InTransit:
    """A request that was decided about and that no replica has taken yet; `ranked`: names, best first."""

    def __init__(self, pending: PendingRequest, request: RoutedRequest, ranked: tuple[str, ...]) -> None:
        self.pending, self.request, self.ranked = pending, request, ranked
        self.replica = ranked[0]
        self.expires_s = time.monotonic() + TRANSIT_LIMIT_S


class ServegymRouter(MultiplexMixin, RequestRouter):
    """Routes by the configuration `config`: what `servegym deploy` writes, as a path or as the object itself.

    Each handle of a deployment has a router of its own, with its own books; what others send is known from
    the replicas' routing stats. Subclasses serve policies of their own by `make_router`.
    """

    def initialize_state(self, config: str | Mapping[str, Any]) -> None:  # type: ignore[override]
        """Called by Serve with `request_router_kwargs`; mistakes in them are found later, and logged."""
        self._config = config
        self._router: Router | None = None
        self._in_transit: dict[int, _InTransit] = {}
        self._ids: set[str] = set()
        self._repeats = itertools.count(2)
        self._told: dict[str, Mapping[str, Any]] = {}
        self._noted: set[str] = set()

    def make_router(self, config: str | Mapping[str, Any], replicas: list[str]) -> Router:
        """What decides. InputError where the configuration is wrong."""
        return router_from_config(load_config(config) if isinstance(config, str) else config, replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Tiers of one replica each, best first, of those that have room.

        Where none has, by what this router knows, or where routing itself has failed, it is one tier of all:
        Serve asks them how long their queues are and takes the shortest that is not full.
        """
        if pending_request is None:
            return [[replica] for replica in candidate_replicas]
        # Without this Serve asks again at once, for ever, where nobody takes the request.
        pending_request.routing_context.should_backoff = True
        if pending_request.metadata.multiplexed_model_id:
            allowed = self.apply_multiplex_routing(pending_request)
            candidate_replicas = [each for each in candidate_replicas if each.replica_id in allowed]
        free = self.select_available_replicas(candidate_replicas)
        if not free:
            return [candidate_replicas] if candidate_replicas else []
        by_name = {_name(replica.replica_id): replica for replica in free}
        try:
            ranked = self._ranked(pending_request, by_name)
        except Exception as error:  # whatever it is: Serve would forget the request
            self._note("a request was left to Serve", error)
            return [free]
        return [[by_name[name]] for name in ranked] or [free]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """A replica has taken a request."""
        router, name = self._router, _name(replica_id)
        if router is None:
            return
        transit = self._in_transit.pop(id(pending_request), None)
        request = self._request(pending_request) if transit is None else transit.request
        request_id = request.request_id
        try:
            if transit is None:  # Serve took whoever had room: there was one candidate
                router.route(request, [name])
            elif transit.replica != name:
                router.sent(request, name)
        except Exception as error:  # it was removed meanwhile, or the like: a replica has the request now
            self._note("a request is not in the books", error)

        def ended(outcome: Any) -> None:
            self._ids.discard(request_id)
            router.ended(request_id, not isinstance(outcome, Exception))

        result.add_done_callback(ended)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A replica is through with a request. One that it has refused may still be in transit."""
        for transit in self._in_transit.values():
            if (
                transit.pending.metadata.internal_request_id == internal_request_id
                and transit.replica == _name(replica_id)
            ):
                transit.expires_s = time.monotonic() + REFUSED_LIMIT_S

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Replicas have come or gone, or have new routing stats."""
        super().update_replicas(replicas)
        self._set_replicas()
        if self._router is None:
            return
        for replica in replicas:
            name, stats = _name(replica.replica_id), replica.routing_stats
            if stats and stats != self._told.get(name):
                self._told[name] = stats
                try:
                    tell(self._router, name, stats)
                except InputError as error:
                    self._note("a report was not used", error)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A replica was found dead before the controller said so."""
        super().on_replica_actor_died(replica_id)
        self._set_replicas()

    def _set_replicas(self) -> None:
        """Without replicas the last fleet stays: Serve asks nothing until there are some."""
        names = [_name(replica_id) for replica_id in self.curr_replicas]
        if not names:
            return
        self._told = {name: stats for name, stats in self._told.items() if name in names}
        if self._router is None:
            try:
                self._router = self.make_router(self._config, names)
            except Exception as error:  # whatever it is: Serve would have no router, and requests would hang
                self._router = Router(_Unusable(error), FleetView(names), deadline_s=None)
        else:
            self._router.set_replicas(names)

    def _ranked(self, pending: PendingRequest, free: Mapping[str, RunningReplica]) -> list[str]:
        """Names in `free`, best first; the books have the request at the first."""
        assert self._router is not None  # Serve asks only once there are replicas
        transit = self._in_transit.get(id(pending))
        if transit is None:
            self._forget_lost()
            request = self._request(pending)
            try:
                ranked_all = self._router.route(request, free).ranked
            except Exception:
                self._ids.discard(request.request_id)  # Serve asks again: it is the same request then
                raise
            transit = self._in_transit[id(pending)] = _InTransit(pending, request, ranked_all)
            return list(transit.ranked)
        ranked = [name for name in transit.ranked if name in free]
        if ranked and ranked[0] != transit.replica:
            transit.replica = ranked[0]
            self._router.sent(transit.request, ranked[0])
        return ranked

    def _request(self, pending: PendingRequest) -> RoutedRequest:
        """Its id is that of Serve's request, with a number where that makes several calls."""
        request_id = pending.metadata.request_id
        if request_id in self._ids:
            request_id = f"{request_id}.{next(self._repeats)}"
        try:
            request = routed_request(pending.args, pending.kwargs)
        except Exception as error:  # arguments may be any objects: these are as if nothing had been said
            self._note("a request was not read", error)
            request = routed_request((), {})
        self._ids.add(request_id)
        return request._replace(request_id=request_id)

    def _forget_lost(self) -> None:
        """Ends requests in transit that will not arrive: Serve does not say of each that it was given up."""
        assert self._router is not None
        now_s = time.monotonic()
        lost = [
            key
            for key, each in self._in_transit.items()
            if now_s > each.expires_s or each.pending.future.cancelled()
        ]
        for key in lost:
            request_id = self._in_transit.pop(key).request.request_id
            self._ids.discard(request_id)
            self._router.ended(request_id, False)

    def _note(self, what: str, error: Exception) -> None:
        """Logged the first time."""
        if what not in self._noted:
            self._noted.add(what)
            _LOG.warning("%s: %s: %s; said once", what, type(error).__name__, error)


def request_router_config(
    config: str | Mapping[str, Any], *, routing_stats_period_s: float = 0.2, **options: Any
) -> RequestRouterConfig:
    """What a deployment is given as `request_router_config`; InputError where it could not work.

    options: of RequestRouterConfig, such as its back-off.
    """
    router_policy(load_config(config) if isinstance(config, str) else serving_config(config))
    given: dict[str, Any] = {
        "request_router_class": f"{ServegymRouter.__module__}.{ServegymRouter.__qualname__}",
        "request_router_kwargs": {"config": config},
        "request_routing_stats_period_s": routing_stats_period_s,
        **options,
    }
    return RequestRouterConfig(**given)


class _Unusable:
    """In place of a policy that could not be loaded: it says why, and the fallback decides."""

    name, bounded = "unusable", True

    def __init__(self, error: Exception) -> None:
        self._error = error

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        raise self._error


def _name(replica_id: ReplicaID) -> str:
    return str(replica_id.unique_id)
