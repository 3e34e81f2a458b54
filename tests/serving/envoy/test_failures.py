"""Replicas, pickers and clients that fail: no request is lost that a healthy replica can serve."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.serving.envoy.stack import call, until


def picked(stack) -> int:
    return len(stack.decisions())


def test_without_any_replica_the_answer_is_503(stack) -> None:
    it = stack(replicas=2)
    for name in it.names:
        it.processes[name].kill()
    until(
        lambda: it.ask({}).status == 503 and b"servegym_endpoint_picker" in it.ask({}).body,
        "the picker's 503",
    )
    assert it.log("picker").count("is unavailable") == 2
    it.start_replica(it.names[1])
    until(lambda: it.ask({}).status == 200, "an answer")


def test_a_replica_that_dies_before_it_answers_costs_no_request(stack) -> None:
    it = stack()
    with ThreadPoolExecutor(60) as pool:
        waiting = [
            pool.submit(it.ask, {"id": str(i), "first_s": 1.5, "stream": i % 2 == 0}) for i in range(60)
        ]
        time.sleep(0.7)
        it.processes[it.names[0]].kill()
        answers = [each.result() for each in waiting]
    assert {answer.status for answer in answers} == {200}
    assert {answer.replica for answer in answers} == set(it.names[1:])
    assert [answer.first["id"] for answer in answers] == [str(i) for i in range(60)]


def test_an_answer_that_has_begun_is_never_begun_again(stack) -> None:
    it = stack()
    with ThreadPoolExecutor(30) as pool:

        def ask(i: int):
            try:
                return it.ask({"id": str(i), "tokens": 10, "token_s": 0.2, "stream": True})
            except http.client.HTTPException:
                return None

        waiting = [pool.submit(ask, i) for i in range(30)]
        time.sleep(1.0)
        begun = {name: it.stats(name)["begun"] for name in it.names}
        it.processes[it.names[0]].kill()
        answers = [each.result() for each in waiting]
    assert [i for i, answer in enumerate(answers) if answer is None] == sorted(map(int, begun[it.names[0]]))
    for answer in answers:
        if answer is not None:
            assert [event["n"] for event in answer.events] == list(range(1, 11))
            assert len({event["replica"] for event in answer.events}) == 1
    for name in it.names[1:]:
        assert it.stats(name)["begun"] == begun[name]


def test_an_answer_that_is_seen_to_be_cut_off_has_failed_in_the_log(stack) -> None:
    it = stack(setup={"observed": "tokens"})
    left = http.client.HTTPConnection("127.0.0.1", it.port, timeout=30)
    body = {"prompt": "x" * 4000, "tokens": 1000, "token_s": 0.05, "stream": True}
    left.request("POST", "/v1/completions", json.dumps(body))
    left.getresponse().readline()
    with ThreadPoolExecutor(12) as pool:

        def ask(_: int) -> None:
            with suppress(http.client.HTTPException):
                it.ask({"tokens": 10, "token_s": 0.2, "stream": True})

        waiting = [pool.submit(ask, i) for i in range(12)]
        time.sleep(1.0)
        it.processes[it.names[0]].kill()
        for each in waiting:
            each.result()
    left.close()

    def outcomes() -> dict[str, dict]:
        found = {line["id"]: line for line in it.log_lines() if "ended_s" in line}
        return found if len(found) == 13 else {}

    seen = until(outcomes, "all requests have ended in the log")
    for decision in it.decisions(13):
        outcome = seen[decision["id"]]
        is_whole = decision["request"][0] < 500 and decision["replica"] != it.names[0]
        assert outcome["ok"] == is_whole
        assert outcome["output_tokens"] == 10 if is_whole else 0 < outcome["output_tokens"] < 1000
    assert sum(outcome["ok"] for outcome in seen.values()) in range(6, 12)


def test_a_request_at_a_replica_that_hangs_is_tried_elsewhere(stack) -> None:
    it = stack(setup={"first_byte_timeout_s": 1.0})
    os.kill(it.processes[it.names[0]].pid, signal.SIGSTOP)
    answers = it.ask_all([{"id": str(i)} for i in range(60)], at_once=60)
    assert {answer.status for answer in answers} == {200}
    assert {answer.replica for answer in answers} == set(it.names[1:])
    until(lambda: "is unavailable" in it.log("picker"), "the picker has noticed")
    began_s = time.monotonic()
    assert {answer.status for answer in it.ask_all([{}] * 30)} == {200}
    assert time.monotonic() - began_s < 1.0  # nobody is sent there and waits
    os.kill(it.processes[it.names[0]].pid, signal.SIGCONT)
    until(lambda: it.ask({}).replica == it.names[0], "it is chosen again")


def test_a_replica_that_says_503_is_passed_over_in_the_order_decided(stack) -> None:
    it = stack()
    answers = it.ask_all([{"refuse": it.names[0]}] * 30)
    assert {answer.status for answer in answers} == {200}
    assert {answer.replica for answer in answers} == set(it.names[1:])


@pytest.mark.parametrize("observed", ["ends", "tokens"])
def test_a_picker_that_is_killed_costs_no_request(stack, observed: str) -> None:
    it = stack(setup={"observed": observed})
    answers, stop = [], threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            answers.append(it.ask({"tokens": 3, "token_s": 0.01, "stream": True}))

    threads = [threading.Thread(target=keep_asking) for _ in range(16)]
    for each in threads:
        each.start()
    until(lambda: picked(it) > 50, "the picker decides")
    it.processes["picker"].kill()
    it.processes["picker"].wait()
    count = len(answers)
    until(lambda: len(answers) > count + 200, "answers without a picker")
    before = picked(it)
    it.start_picker()
    until(lambda: picked(it) > before + 50, "the picker decides again")
    stop.set()
    for each in threads:
        each.join()
    assert {answer.status for answer in answers} == {200}
    assert all([event["n"] for event in answer.events] == [1, 2, 3] for answer in answers)


def test_without_a_picker_streamed_bodies_are_sent_on_when_envoy_has_noticed(stack) -> None:
    """Those before are lost: bodies are not to be streamed through the picker where Envoy is one's own."""
    it = stack(setup={"body_mode": "FULL_DUPLEX_STREAMED"})
    it.processes["picker"].kill()
    healthy = "cluster.picker.membership_healthy"
    until(lambda: it.envoy_stats(healthy)[healthy] == 0, "Envoy has noticed")
    assert {answer.status for answer in it.ask_all([{}] * 30)} == {200}


def test_a_picker_that_hangs_costs_no_request(stack) -> None:
    it = stack(setup={"picker_timeout_s": 0.3})
    os.kill(it.processes["picker"].pid, signal.SIGSTOP)
    assert {answer.status for answer in it.ask_all([{}] * 30)} == {200}
    os.kill(it.processes["picker"].pid, signal.SIGCONT)
    until(lambda: it.ask({}).status == 200 and picked(it) > 0, "the picker decides again")


def test_a_picker_that_is_told_to_end_hears_its_requests_out(stack) -> None:
    it = stack()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(it.ask, {"tokens": 5, "token_s": 0.3, "stream": True}) for _ in range(8)]
        until(lambda: picked(it) == 8, "all are under way")
        it.processes["picker"].terminate()
        assert it.processes["picker"].wait(30) == 0
        assert {each.result().status for each in waiting} == {200}
    outcomes = [line for line in it.log_lines() if "ended_s" in line]
    assert [line["ok"] for line in outcomes] == [True] * 8
    assert all(line["latency_s"] > 1 for line in outcomes)
    assert it.ask({}).status == 200  # without it


def test_more_requests_than_the_picker_takes_are_sent_on_without_it(stack) -> None:
    it = stack(options=["--max-streams", "4"])
    answers = it.ask_all([{"first_s": 0.5}] * 40, at_once=40)
    assert {answer.status for answer in answers} == {200}
    it.processes["picker"].terminate()
    it.processes["picker"].wait(30)
    assert 4 <= picked(it) < 40


def test_a_client_that_leaves_is_forgotten(stack) -> None:
    it = stack()
    with socket.create_connection(("127.0.0.1", it.port)) as client:
        body = b'{"tokens": 100, "token_s": 0.1, "stream": true}'
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        client.recv(1)
    until(lambda: [line for line in it.log_lines() if "ended_s" in line], "the picker has forgotten it")
    until(lambda: sum(it.stats(name)["broken_off"] for name in it.names) == 1, "so has the replica")


def test_a_client_that_does_not_end_its_request_is_answered_408(stack) -> None:
    it = stack(setup={"body_mode": "FULL_DUPLEX_STREAMED"}, options=["--body-timeout-s", "0.5"])
    with socket.create_connection(("127.0.0.1", it.port), timeout=20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        began_s = time.monotonic()
        for _ in range(20):  # slowly, but not idle
            try:
                client.sendall(b"x")
            except OSError:
                break
            time.sleep(0.1)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began_s < 10
    assert it.ask({}).status == 200


@pytest.mark.parametrize("body_mode", ["BUFFERED", "FULL_DUPLEX_STREAMED"])
def test_a_body_that_is_too_large_is_refused(stack, body_mode: str) -> None:
    it = stack(
        setup={"body_mode": body_mode, "max_body_bytes": 100_000}, options=["--max-body-bytes", "100000"]
    )
    with suppress(ConnectionError):  # refused while it was still being sent
        assert it.ask(b"x" * 1_000_000).status == 413
    assert it.ask({"prompt": "x" * 90_000}).status == 200
    assert all(it.stats(name)["begun"] in ([], [""]) for name in it.names)


def test_metrics_are_served(stack, tmp_path) -> None:
    from tests.serving.envoy.stack import LEAST_LOADED, free_port

    port = free_port()
    it = stack(config={**LEAST_LOADED, "metrics": True}, options=["--metrics", f"127.0.0.1:{port}"])
    it.ask_all([{}] * 5)
    page = call(port, "GET", "/metrics").body.decode()
    assert "servegym_router_decisions_total" in page
