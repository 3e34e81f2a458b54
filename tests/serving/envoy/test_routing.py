"""Requests go where the picker says, through a real Envoy, however bodies are sent."""

import asyncio
import importlib.util
import json
from collections import Counter

import pytest

from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.plugins.endpoint_picker.picker import Limits, Picker
from servegym.agents.serving.plugins.endpoint_picker.server import Server
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router
from tests.serving.envoy.stack import call, until

MODES = ("BUFFERED", "FULL_DUPLEX_STREAMED")


def ended(stack, count: int) -> dict[str, dict]:
    """What the log says of requests that have ended, when `count` have."""

    def lines() -> dict[str, dict]:
        found = {line["id"]: line for line in stack.log_lines() if "ended_s" in line}
        return found if len(found) >= count else {}

    return until(lines, f"{count} requests have ended in the log")


@pytest.mark.parametrize("observed", ["ends", "tokens"])
@pytest.mark.parametrize("body_mode", MODES)
def test_requests_are_answered_by_the_replica_that_was_decided(stack, body_mode: str, observed: str) -> None:
    it = stack(setup={"body_mode": body_mode, "observed": observed})
    bodies = [
        {"id": str(i), "prompt": "x" * (i * 700), "tokens": 1 + i % 5, "token_s": 0.005, "stream": i % 3 > 0}
        for i in range(200)
    ]
    answers = it.ask_all(bodies)
    assert {answer.status for answer in answers} == {200}
    done = ended(it, 200)
    decided = {line["id"]: line for line in it.decisions(200)}
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.first["id"] == body["id"]
        assert decided[answer.first["request_id"]]["replica"] == answer.replica
        outcome = done[answer.first["request_id"]]
        assert outcome["ok"]
        if body["stream"]:
            assert [event["n"] for event in answer.events] == list(range(1, body["tokens"] + 1))
            assert answer.body.endswith(b"data: [DONE]\n\n")
        else:
            assert answer.said["bytes"] == len(json.dumps(body))
        assert outcome["output_tokens"] == (body["tokens"] if observed == "tokens" else None)
        assert (outcome["ttft_s"] is not None) == (observed == "tokens" and body["stream"])
    assert all(count > 50 for count in Counter(answer.replica for answer in answers).values())


@pytest.mark.parametrize("body_mode", MODES)
def test_a_large_body_arrives_whole(stack, body_mode: str) -> None:
    it = stack(setup={"body_mode": body_mode})
    body = {"prompt": "y" * 3_000_000}
    assert it.ask(body).said["bytes"] == len(json.dumps(body))
    (decision,) = it.decisions(1)
    assert decision["request"][0] == 750_000  # tokens of four bytes


def test_a_request_without_a_body_is_routed(stack) -> None:
    it = stack()
    assert call(it.port, "GET", "/load").status == 200
    assert len(it.decisions(1)) == 1


def test_a_request_is_under_way_until_its_answer_ends(stack) -> None:
    """Envoy keeps the stream to the picker open, though it shows it no body of the answer."""
    it = stack()
    answer = it.ask({"tokens": 5, "token_s": 0.2, "stream": True})
    outcome = ended(it, 1)[answer.first["request_id"]]
    assert outcome["latency_s"] > 0.7
    assert outcome["ok"]


def hint(replicas) -> callable:
    """Envoy's own word on who may be chosen, as gateways give it."""

    def change(config: dict) -> None:
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        subset = {"x-gateway-destination-endpoint-subset": replicas(config)}
        typed = {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [{"metadata_namespace": "envoy.lb.subset_hint", "value": subset}],
        }
        manager["http_filters"].insert(0, {"name": "subset", "typed_config": typed})

    return change


def names(config: dict) -> list[str]:
    cluster = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    sockets = [each["endpoint"]["address"]["socket_address"] for each in cluster]
    return [f"{each['address']}:{each['port_value']}" for each in sockets]


@pytest.mark.parametrize("separate", [list, ",".join])
def test_a_subset_is_honoured(stack, separate) -> None:
    it = stack(change=hint(lambda config: separate([*names(config)[1:], "10.9.8.7:1"])))
    answers = it.ask_all([{"first_s": 0.01}] * 60)
    assert {answer.replica for answer in answers} == set(it.names[1:])


@pytest.mark.parametrize("subset", [[], ["10.9.8.7:1"]])
def test_a_subset_of_nobody_is_answered_with_503(stack, subset: list[str]) -> None:
    it = stack(change=hint(lambda config: subset))
    answer = it.ask({})
    assert answer.status == 503
    assert answer.said["error"]["message"] == "no replica is available"
    assert answer.headers["retry-after"] == "1"


def test_a_client_cannot_choose_a_replica(stack) -> None:
    it = stack()
    headers = {"x-gateway-destination-endpoint": it.names[0], "x-servegym-prompt-tokens": "77"}
    answers = it.ask_all([{"first_s": 0.01}] * 60, headers=headers)
    assert {answer.replica for answer in answers} == set(it.names)
    assert all(it.stats(name)["headers"].get("x-servegym-prompt-tokens") is None for name in it.names)
    assert all(line["request"][0] < 77 for line in it.decisions(60))


def test_fronts_are_believed_where_all_clients_are_fronts(stack) -> None:
    it = stack(setup={"trusts_clients": True})
    headers = {"x-gateway-destination-endpoint": it.names[0], "x-servegym-predicted-output-tokens": "77"}
    answers = it.ask_all([{"first_s": 0.01}] * 30, headers=headers)
    assert {answer.replica for answer in answers} == set(it.names)
    assert all(it.stats(name)["headers"]["x-servegym-predicted-output-tokens"] == "77" for name in it.names)
    assert all(line["request"][1] == 77 for line in it.decisions(30))


def test_when_all_are_busy_who_can_wait_is_refused(stack) -> None:
    it = stack(options=["--max-waiting", "10"])
    for name in it.names:
        call(int(name.split(":")[1]), "POST", "/say", {"waiting": 50})

    def refused() -> bool:
        answer = it.ask({"priority": 1})
        return answer.status == 429 and "busy" in answer.said["error"]["message"]

    until(refused, "429")
    assert it.ask({"priority": 0}).status == 200
    assert it.ask({}).status == 200
    call(int(it.names[1].split(":")[1]), "POST", "/say", {"waiting": 3})
    until(lambda: it.ask({"priority": 1}).status == 200, "room again")
    assert it.ask({"priority": 1}).replica == it.names[1]


def test_the_books_follow_who_has_served(stack) -> None:
    """Envoy says who has answered in the end; the picker runs here, where its router can be looked into."""
    it = stack(with_picker=False)
    sent: list[str] = []

    class Watched(Router):
        def sent(self, request: RoutedRequest, replica: str) -> None:
            sent.append(replica)
            super().sent(request, replica)

    async def check() -> None:
        router = Watched(LeastLoaded(), FleetView(it.names), deadline_s=None)
        server = Server(Picker(router, Limits()), f"127.0.0.1:{it.picker_port}")
        await server.start()
        await asyncio.to_thread(until, it.is_ready, "Envoy finds the picker")
        answers = await asyncio.to_thread(it.ask_all, [{"refuse": it.names[0], "first_s": 0.05}] * 30)
        assert {answer.status for answer in answers} == {200}
        assert set(sent) <= set(it.names[1:])
        assert len(sent) == len(it.stats(it.names[0])["begun"]) > 5
        assert router.fleet.num_under_way == 0
        await server.stop()

    asyncio.run(check())


def test_an_exported_policy_decides_with_nothing_else_installed(stack) -> None:
    setting = dict.fromkeys(SETTING_FEATURES, 1.0)
    config = {"policy": {"artifact": "zoo:router"}, "setting": setting, "deadline_s": 1.0}
    it = stack(config=config, replicas=8)
    for package in ("torch", "numba", "gymnasium", "scipy", "hydra"):
        assert importlib.util.find_spec(package) is None
    assert {answer.status for answer in it.ask_all([{"prompt": "x" * 4000, "first_s": 0.02}] * 64)} == {200}
    decisions = it.decisions(64)
    assert {line["policy"] for line in decisions} == {"zoo:router"}
    assert not any("fallback" in line for line in decisions)
