"""One Ray cluster of this machine for all tests of the group, with one deployment of three replicas."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

# Ray reads these when it is imported. It would ask for a token, and report how it is used.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
# A machine that does other things beside is slow to answer how many requests it has.
os.environ.update(RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S="2", RAY_raylet_start_wait_time_s="120")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.config import HTTPOptions, RequestRouterConfig  # noqa: E402
from ray.serve.handle import DeploymentHandle  # noqa: E402

from tests.serving.ray_serve import recordings  # noqa: E402
from tests.serving.ray_serve.engines import Engine  # noqa: E402
from tests.serving.ray_serve.recording_router import RecordingRouter  # noqa: E402

NUM_REPLICAS, MAX_ONGOING = 3, 4


@pytest.fixture(scope="session")
def cluster(free_port: Callable[[], int]) -> Iterator[str]:
    """A cluster; the URL of Serve's HTTP proxy."""
    port = free_port()
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
        log_to_driver=False,
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="session")
def engines(cluster: str) -> str:
    """The name of an application of NUM_REPLICAS replicas, each with at most MAX_ONGOING requests."""
    config = RequestRouterConfig(
        request_router_class="tests.serving.ray_serve.recording_router.RecordingRouter",
        request_router_kwargs={"config": {"policy": {"artifact": "zoo:router"}, "setting": SETTING}},
        request_routing_stats_period_s=0.1,
    )
    deployment = serve.deployment(
        num_replicas=NUM_REPLICAS,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0.1},
        request_router_config=config,
        health_check_period_s=1.0,
        graceful_shutdown_timeout_s=1.0,
    )(Engine)
    serve.run(deployment.bind(), name="engines", route_prefix=None)
    return "engines"


SETTING = {
    "overhead_s": 0.005,
    "s_per_prefill_token": 5e-5,
    "s_per_decode": 1e-4,
    "s_per_context_token": 1e-8,
    "token_budget": 8192.0,
    "block_size": 16.0,
    "mean_output_tokens": 200.0,
    "ttft_weight": 1.0,
    "latency_weight": 1.0,
}


@pytest.fixture(scope="session")
def handle(engines: str) -> DeploymentHandle:
    """The first handle of this process: its router is `recordings.made[0]`."""
    return new_handle(engines)


@pytest.fixture
def serve_by(handle: DeploymentHandle) -> Callable[..., RecordingRouter]:
    """serve_by(policy, **options of Router): the handle's router begins anew; without a policy as configured.

    It has had a report of each replica when it comes back.
    """

    def begin(policy: Any = None, **options: Any) -> RecordingRouter:
        router = recordings.made[0]
        wait_until(lambda: router.books.fleet.num_under_way == 0)
        return wait_for_reports(router.begin_anew(recordings.Wanted(policy, options)))

    return begin


def new_handle(engines: str) -> DeploymentHandle:
    """Another handle, whose router is `recordings.made[-1]`.

    Ray 2.60 may leave a handle without its configuration where routing stats come while it is made and there
    is another handle of its deployment: it is then made again.
    """
    count = len(recordings.made)
    for _ in range(20):
        handle = DeploymentHandle("Engine", engines)
        handle._init()
        end_s = time.monotonic() + 2.0
        while time.monotonic() < end_s:
            if len(recordings.made) > count:
                wait_for_reports(recordings.made[-1])
                return handle
            time.sleep(0.01)
    raise AssertionError("no handle got its configuration")


def wait_for_reports(router: RecordingRouter) -> RecordingRouter:
    """The router when all replicas are there and have reported."""
    wait_until(lambda: len(router.books.fleet.names) == NUM_REPLICAS)
    wait_until(lambda: bool(router.books.fleet.is_fresh(router.books.clock()).all()))
    return router


def wait_until(is_so: Callable[[], bool], limit_s: float = 15.0) -> None:
    """Fails where it is not so in time."""
    end_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)


def answers(responses: list[Any]) -> list[Mapping[str, Any]]:
    """Of all, in order."""
    return [response.result(timeout_s=60) for response in responses]
