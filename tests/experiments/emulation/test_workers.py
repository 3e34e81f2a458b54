"""Workers over HTTP, on the wall clock: what they answer, not when."""

import asyncio
import http.client
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES
from servegym.agents.serving.routing.fleet_view import NOT_REPORTED
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.experiments.emulation import http_server
from servegym.experiments.emulation.workers import replica_specs
from tests.conftest import examples
from tests.experiments.emulation.asking import ask, parse_metrics, workers_of

pytestmark = pytest.mark.compiled

CHAT = {
    "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": [{"text": "12345678"}]}]
}


def text(request_id: str, count: int) -> str:
    return "".join(f" {request_id}#{number}" for number in range(1, count + 1))


def test_whole_answers() -> None:
    async def run() -> None:
        async with workers_of() as workers:
            body = {"model": "small", "prompt": "12345", "max_tokens": 7}
            answer = await ask(workers.urls[1], "POST", "/v1/completions", body, x_request_id="mine")
            assert (answer.status, answer.headers["x-servegym-replica"]) == (200, "1")
            assert answer.json["choices"][0]["text"] == text("mine", 7)
            assert answer.json["choices"][0]["finish_reason"] == "length"
            assert answer.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}
            ids = await ask(workers.urls[0], "POST", "/v1/completions", {"prompt": [[5, 6, 7]]})
            assert ids.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 16, "total_tokens": 19}
            chat = await ask(
                workers.urls[0], "POST", "/v1/chat/completions", {**CHAT, "max_completion_tokens": 2}
            )
            message = chat.json["choices"][0]["message"]
            assert message == {"role": "assistant", "content": text("replica0-1", 2)}
            assert chat.json["usage"]["prompt_tokens"] == 3

    asyncio.run(run())


@pytest.mark.parametrize(("interval", "num_events"), [(1, 20), (8, 4), (100, 2)])
def test_streams(interval: int, num_events: int) -> None:
    async def run() -> None:
        async with workers_of(stream_interval=interval) as workers:
            body: dict[str, Any] = {"prompt": "a", "max_tokens": 20, "stream": True}
            answer = await ask(workers.urls[0], "POST", "/v1/completions", body, x_request_id="r")
            assert answer.headers["content-type"].startswith("text/event-stream")
            choices = [event["choices"][0] for event in answer.events]
            assert len(choices) == num_events
            assert choices[0]["text"] == " r#1"
            assert "".join(choice["text"] for choice in choices) == text("r", 20)
            assert [choice["finish_reason"] for choice in choices] == [None] * (num_events - 1) + ["length"]
            with_usage = {**CHAT, "max_tokens": 20, "stream": True, "stream_options": {"include_usage": True}}
            chat = await ask(workers.urls[0], "POST", "/v1/chat/completions", with_usage, x_request_id="r")
            *events, usage = chat.events
            deltas = [event["choices"][0]["delta"] for event in events]
            assert "".join(delta["content"] for delta in deltas) == text("r", 20)
            assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (num_events - 1)
            assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 20

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/completions", b"{", 400, "JSON"),
        ("/v1/completions", b"[" * 100_000, 400, "JSON"),
        ("/v1/completions", [], 400, "object"),
        ("/v1/completions", {}, 400, "prompt"),
        ("/v1/completions", {"prompt": ["a", "b"]}, 400, "one only"),
        ("/v1/completions", {"prompt": [1, "a"]}, 400, "prompt"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2.5}, 400, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "n": 2}, 400, "n = 2"),
        ("/v1/completions", {"prompt": "a", "priority": "high"}, 400, "priority"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1_000_000}, 400, "maximum context length is"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", {"messages": ["hello"]}, 400, "object"),
        ("/v1/chat/completions", {"messages": [{"content": 5}]}, 400, "content"),
        ("/nothing", {}, 404, "/nothing"),
        ("/health", {}, 405, "/health"),
        ("/admin/kill", {}, 404, "/admin/kill"),
    ],
)
def test_what_cannot_be_served(path: str, body: Any, status: int, said: str) -> None:
    async def run() -> None:
        async with workers_of() as workers:
            answer = await ask(workers.urls[0], "POST", path, body)
            assert answer.status == status
            assert said in answer.json["error"]["message"] and answer.json["error"]["code"] == status
            assert (await ask(workers.urls[0], "GET", "/load")).json["received_requests"] == 0

    asyncio.run(run())


def test_report_and_metrics() -> None:
    async def run() -> None:
        async with workers_of("engine@scenario.engine=vllm_v1_prefix_caching", time_scale=20.0) as workers:
            url = workers.urls[1]
            body = {"prompt": "12345678" * 100, "max_tokens": 50, "stream": True}
            header = {"x_servegym_predicted_output_tokens": "60.4"}
            asking = [
                asyncio.create_task(ask(url, "POST", "/v1/completions", body, **header)) for _ in range(3)
            ]
            while (report := (await ask(url, "GET", "/load")).json)["received_requests"] < 3:
                await asyncio.sleep(0.01)
            assert set(report) - set(REPLICA_FEATURES) == {
                "time_s",
                "time_scale",
                "received_requests",
                "received_prompt_tokens",
            }
            assert set(REPLICA_FEATURES) - set(report) == set(NOT_REPORTED)
            assert report["running"] + report["waiting"] == 3
            assert report["received_prompt_tokens"] == 600
            assert 60 <= report["predicted_remaining_tokens"] <= 180
            assert (await ask(workers.urls[0], "GET", "/load")).json["running"] == 0
            for task in asking:
                task.cancel()
            answer = await ask(url, "GET", "/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            samples = parse_metrics(answer.body.decode())
            assert all(
                each.labels["model_name"] == "small" and each.labels["engine"] == "1" for each in samples
            )
            values = {each.name: each.value for each in samples}
            assert {f"servegym:{name}" for name in report} <= values.keys()
            assert values["servegym:received_prompt_tokens"] == 600
            assert values["vllm:kv_cache_usage_perc"] > 0
            sizes = next(each.labels for each in samples if each.name == "vllm:cache_config_info")
            assert (sizes["block_size"], float(sizes["num_gpu_blocks"])) == ("16", report["kv_total_blocks"])

    asyncio.run(run())


def test_counters_add_up() -> None:
    async def run() -> None:
        async with workers_of("engine@scenario.engine=vllm_v1_prefix_caching") as workers:
            url = workers.urls[0]
            for _ in range(3):
                await ask(url, "POST", "/v1/completions", {"prompt": "12345678" * 100, "max_tokens": 5})
            samples = parse_metrics((await ask(url, "GET", "/metrics")).body.decode())
            values = {each.name: each.value for each in samples}
            assert values["vllm:prompt_tokens_total"] == values["vllm:prefix_cache_queries_total"] == 600
            assert values["vllm:prefix_cache_hits_total"] == 2 * 192
            assert values["vllm:generation_tokens_total"] == 15
            assert values["vllm:request_success_total"] == 3
            assert values["vllm:num_preemptions_total"] == 0
            assert values["vllm:num_requests_running"] == values["vllm:num_requests_waiting"] == 0
            buckets = [each for each in samples if each.name == "vllm:time_to_first_token_seconds_bucket"]
            assert [each.value for each in buckets] == sorted(each.value for each in buckets)
            assert (buckets[-1].labels["le"], buckets[-1].value) == ("+Inf", 3)
            assert values["vllm:time_to_first_token_seconds_count"] == 3
            assert values["vllm:time_to_first_token_seconds_sum"] > 0

    asyncio.run(run())


def test_a_client_that_leaves_frees_its_request() -> None:
    async def run() -> None:
        async with workers_of(time_scale=1.0) as workers:
            url = workers.urls[0]
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            body = b'{"prompt": "a", "max_tokens": 100000, "stream": true}'
            writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b"#3")
            assert (await ask(url, "GET", "/load")).json["running"] == 1
            writer.close()
            while (report := (await ask(url, "GET", "/load")).json)["running"] > 0:
                await asyncio.sleep(0.01)
            assert report["kv_used_blocks"] == report["outstanding_tokens"] == 0

    asyncio.run(run())


@pytest.mark.parametrize("hold_head", [False, True])
def test_the_head_of_a_stream_comes_at_once_or_with_the_first_token(hold_head: bool) -> None:
    async def run() -> None:
        async with workers_of(time_scale=1e6, hold_head=hold_head, admin=True) as workers:
            parts = urlsplit(workers.urls[0])
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            body = b'{"prompt": "a", "max_tokens": 5, "stream": true}'
            writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            if hold_head:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.3)
            else:
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            writer.close()

    asyncio.run(run())


def test_a_paused_worker_answers_nothing_until_it_goes_on() -> None:
    async def run() -> None:
        async with workers_of(admin=True) as workers:
            paused, other = workers.urls
            assert (await ask(paused, "POST", "/admin/pause")).status == 200
            body = {"prompt": "a", "max_tokens": 3}
            waiting = asyncio.create_task(ask(paused, "POST", "/v1/completions", body))
            with pytest.raises(TimeoutError):
                await ask(paused, "GET", "/health", timeout_s=0.3)
            assert (await ask(other, "POST", "/v1/completions", body)).status == 200
            assert not waiting.done()
            assert (await ask(paused, "POST", "/admin/resume")).status == 200
            assert (await waiting).status == 200
            assert (await ask(paused, "GET", "/health")).status == 200

    asyncio.run(run())


def test_a_killed_worker_is_gone_with_all_its_streams() -> None:
    async def run() -> None:
        async with workers_of(admin=True, time_scale=1.0) as workers:
            killed, other = workers.urls
            body = {"prompt": "a", "max_tokens": 100_000, "stream": True}
            under_way = asyncio.create_task(ask(killed, "POST", "/v1/completions", body))
            while (await ask(killed, "GET", "/load")).json["running"] == 0:
                await asyncio.sleep(0.01)
            with pytest.raises(ConnectionError):
                await ask(killed, "POST", "/admin/kill")
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                await under_way
            with pytest.raises(ConnectionRefusedError):
                await ask(killed, "GET", "/health")
            assert (await ask(other, "GET", "/health")).status == 200

    asyncio.run(run())


def test_what_routers_ask() -> None:
    async def run() -> None:
        async with workers_of() as workers:
            url = workers.urls[0]
            assert (await ask(url, "GET", "/v1/models")).json["data"][0]["id"] == "small"
            assert (await ask(url, "GET", "/version")).json["version"]
            assert (await ask(url, "GET", "/health")).status == 200
            for path in ("/model_info", "/get_model_info", "/server_info", "/get_server_info"):
                assert (await ask(url, "GET", path)).json["model_path"] == "small"
            assert (await ask(url, "GET", "/get_load")).json[0]["num_reqs"] == 0
            assert (await ask(url, "GET", "/v1/loads")).json["aggregate"]["total_reqs"] == 0
            rendered = (await ask(url, "POST", "/v1/completions/render", {"prompt": "12345"})).json
            assert len(rendered[0]["token_ids"]) == 2
            assert len((await ask(url, "POST", "/v1/chat/completions/render", CHAT)).json["token_ids"]) == 3
            tokenized = (await ask(url, "POST", "/tokenize", {"prompt": "12345"})).json
            assert tokenized["count"] == len(tokenized["tokens"]) == 2

    asyncio.run(run())


def exchange_raw(url: str, *messages: bytes, then_leave: bool = False) -> bytes:
    """What a server sends until it closes; where the client leaves it may be nothing."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as client:
        for message in messages:
            client.sendall(message)
        if then_leave:
            client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65536):
            received += data
    return received


def test_requests_of_one_connection_are_answered_in_turn() -> None:
    async def run() -> None:
        async with workers_of() as workers:
            body = b'{"prompt": "a", "max_tokens": 2}'
            chunked = b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
            chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            last = b"GET /version HTTP/1.1\r\nconnection: close\r\n\r\n"
            received = await asyncio.to_thread(exchange_raw, workers.urls[0], chunked + chunked + last)
            first, second, third = received.split(b"HTTP/1.1 200 OK")[1:]
            assert b"replica0-0#2" in first and b"replica0-1#2" in second and b"version" in third
            expecting = b"POST /tokenize HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 15\r\n"
            expecting += b"connection: close\r\n\r\n"
            received = await asyncio.to_thread(exchange_raw, workers.urls[0], expecting, b'{"prompt": "a"}')
            assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"GET / HTTP/1.1\r\na: " + b"b" * 40_000, b"431"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", b"413"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_messages_beyond_the_limits(message: bytes, status: bytes) -> None:
    async def run() -> None:
        async with workers_of() as workers:
            received = await asyncio.to_thread(exchange_raw, workers.urls[0], message)
            assert received.startswith(b"HTTP/1.1 " + status)
            assert b"connection: close" in received

    asyncio.run(run())


def test_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.05)
    monkeypatch.setattr(http_server, "SWEEP_S", 0.02)

    async def run() -> None:
        async with workers_of() as workers:
            parts = urlsplit(workers.urls[0])
            idle_reader, _ = await asyncio.open_connection(parts.hostname, parts.port)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(b"GET /health HT")
            assert await reader.read(1) == b""
            assert not idle_reader.at_eof(), "one that has begun nothing may stay"

    asyncio.run(run())


WORDS = st.sampled_from(
    (
        *(
            b"POST ",
            b"GET ",
            b"/v1/completions",
            b"/v1/chat/completions",
            b"/load",
            b" HTTP/1.1",
            b"\r\n",
            b"\r\n\r\n",
        ),
        *(
            b"content-length: ",
            b"transfer-encoding: chunked",
            b"5",
            b"0",
            b'{"prompt": ',
            b'"a"',
            b"}",
            b'"max_tokens": ',
        ),
    )
)


def test_nonsense_does_no_harm() -> None:
    async def run() -> None:
        async with workers_of() as workers:

            @examples(300)
            @given(st.lists(WORDS | st.binary(max_size=8), max_size=12))
            def send(words: list[bytes]) -> None:
                exchange_raw(workers.urls[0], b"".join(words), then_leave=True)

            await asyncio.to_thread(send)
            assert (await ask(workers.urls[0], "GET", "/health")).status == 200
            report = (await ask(workers.urls[0], "GET", "/load")).json
            assert report["running"] == report["waiting"] == 0
            assert len(workers.workers[0].server.connections) <= 1, "that of the last question may be closing"

    asyncio.run(run())


def test_a_port_in_use_is_refused() -> None:
    async def run() -> None:
        async with workers_of() as workers, workers_of() as others:
            others.stop()
            port = workers.workers[0].server.port
            with pytest.raises(InputError, match=f"port = {port}: replica 0 cannot listen"):
                await others.start(port=port)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("scenario", "said"),
    [("disaggregated_4p4d", "the role prefill"), ("failing_8xh100", "scenario.fleet.failures")],
)
def test_fleets_that_cannot_be_emulated(scenario: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replica_specs(load_scenario(scenario))
