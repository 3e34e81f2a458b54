"""Reports of replicas reach the router; replicas that do not answer are not chosen."""

import asyncio
import json
from collections.abc import Callable

import numpy as np
import pytest

from servegym.agents.serving.routing import load_reports
from servegym.agents.serving.routing.fleet_view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    UNSEEN_PREFILL_TOKENS,
    UNSEEN_REQUESTS,
    WAITING,
    FleetView,
)
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.load_reports import (
    LoadReports,
    get,
    json_report,
    read_load,
    vllm_report,
)
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import NoReplicaError, Router
from servegym.costmodels.errors import InputError

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 5.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="2000",swap_space="4"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="a, b"} 7.0
python_info{version="3.11"} 1.0
"""


class Replica:
    """Answers every GET with what `answer` makes of its path, None: not at all."""

    def __init__(self, answer: Callable[[str], bytes | None]) -> None:
        self.answer, self.asked = answer, list[str]()

    async def __aenter__(self) -> "Replica":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        self.asked.append(path)
        said = self.answer(path)
        if said is None:
            await reader.read()
        else:
            writer.write(said)
        writer.close()


def ok(body: str | bytes, *, sized: bool = True) -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    size = f"Content-Length: {len(raw)}\r\n" if sized else ""
    return f"HTTP/1.1 200 OK\r\n{size}\r\n".encode() + raw


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def router_of(*names: str) -> Router:
    return Router(LeastLoaded(), FleetView(names, kv_blocks=100), deadline_s=None)


def row(router: Router, name: str) -> np.ndarray:
    return router.fleet.rows(router.clock())[router.fleet.index[name]].copy()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def polled(router: Router, replica: Replica, **options: float) -> asyncio.Task[None]:
    given = {"period_s": 0.01, "timeout_s": 0.1, **options}
    return asyncio.create_task(LoadReports(router, {"a": replica.address}, **given).run())  # type: ignore[arg-type]


def test_a_report_is_in_the_next_row() -> None:
    async def check() -> None:
        async with Replica(lambda path: ok(json.dumps({"running": 3, "waiting": 4, "what": "x"}))) as replica:
            router = router_of("a")
            task = polled(router, replica)
            await until(lambda: row(router, "a")[RUNNING] == 3)
            assert row(router, "a")[WAITING] == 4
            assert row(router, "a")[KV_TOTAL_BLOCKS] == 100
            assert set(replica.asked) == {"/load"}
            task.cancel()

    asyncio.run(check())


@pytest.mark.parametrize(("age", "unseen"), [("50", 1), ("0", 0), ("-1", 0), ("NaN", 0), ("1e999", 0)])
def test_a_report_is_as_old_as_it_says(age: str, unseen: int) -> None:
    body = f'{{"waiting": 7, "age_s": {age}}}'

    async def check() -> None:
        async with Replica(lambda path: ok(body)) as replica:
            router = Router(LeastLoaded(), FleetView(["a"], report_max_age_s=100.0), deadline_s=None)
            router.sent(RoutedRequest("sent", 10.0), "a")
            await asyncio.sleep(0.01)
            task = polled(router, replica)
            await until(lambda: row(router, "a")[WAITING] == 7)
            assert row(router, "a")[UNSEEN_REQUESTS] == unseen
            task.cancel()

    asyncio.run(check())


@pytest.mark.parametrize("load", [NOT_FOUND, ok('{"server_load": 9}'), ok("[" * 100_000), ok('"text"')])
def test_a_replica_without_our_reports_is_read_from_its_metrics(load: bytes) -> None:
    async def check() -> None:
        async with Replica(lambda path: load if path == "/load" else ok(VLLM, sized=False)) as replica:
            router = router_of("a")
            task = polled(router, replica)
            await until(lambda: row(router, "a")[RUNNING] == 5)
            await until(lambda: len(replica.asked) > 4)
            told = row(router, "a")
            assert (told[WAITING], told[KV_USED_BLOCKS], told[KV_TOTAL_BLOCKS]) == (2, 500, 2000)
            assert replica.asked[:2] == ["/load", "/metrics"]
            assert set(replica.asked[2:]) == {"/metrics"}
            task.cancel()

    asyncio.run(check())


def test_metrics_of_several_engines_are_added_up() -> None:
    second = VLLM.replace('engine="0"', 'engine="1"').replace("0.25", "0.75").replace("5.0", "1.0")
    numbers = vllm_report(VLLM + second)
    assert numbers == {"running": 6, "waiting": 4, "kv_total_blocks": 4000, "kv_used_blocks": 2000}


def test_the_plugins_metrics_go_before_vllms() -> None:
    ours = (
        'servegym:waiting{engine="0"} 9.0\nservegym:speed{engine="0"} 2.0\nservegym:speed{engine="1"} 4.0\n'
    )
    numbers = vllm_report(VLLM + ours)
    assert (numbers["running"], numbers["waiting"], numbers["speed"]) == (5, 9, 3)


def test_blocks_that_vllm_does_not_know_yet_are_left_out() -> None:
    numbers = vllm_report(VLLM.replace('num_gpu_blocks="2000"', 'num_gpu_blocks="None"'))
    assert numbers == {"running": 5, "waiting": 2}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        UNAVAILABLE,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000,
        b"",
    ],
)
def test_a_replica_that_does_not_answer_is_unavailable_until_it_does(answer: bytes | None) -> None:
    async def check() -> None:
        said: list[bytes | None] = [ok('{"running": 1}')]
        async with Replica(lambda path: said[0]) as replica:
            router = router_of("a")
            task = polled(router, replica)
            await until(lambda: row(router, "a")[RUNNING] == 1)
            said[0] = answer
            await until(lambda: row(router, "a")[AVAILABLE] == 0)
            with pytest.raises(NoReplicaError):
                router.route(RoutedRequest("r", 10))
            said[0] = ok('{"running": 2}')
            await until(lambda: row(router, "a")[AVAILABLE] == 1)
            await until(lambda: row(router, "a")[RUNNING] == 2)
            assert not task.done()
            task.cancel()

    asyncio.run(check())


def test_a_replica_that_is_gone_is_unavailable_and_others_are_not() -> None:
    async def check() -> None:
        async with Replica(lambda path: ok('{"running": 1}')) as gone, Replica(lambda path: ok("{}")) as here:
            router = router_of("gone", "here")
            addresses = {"gone": gone.address, "here": here.address}
            task = asyncio.create_task(LoadReports(router, addresses, period_s=0.01, timeout_s=0.1).run())
            await until(lambda: row(router, "gone")[RUNNING] == 1)
            gone._server.close()
            await until(lambda: row(router, "gone")[AVAILABLE] == 0)
            assert row(router, "here")[AVAILABLE] == 1
            task.cancel()

    asyncio.run(check())


def test_a_few_misses_do_no_harm() -> None:
    async def check() -> None:
        answers = [UNAVAILABLE, UNAVAILABLE, ok('{"running": 1}')] * 20
        async with Replica(lambda path: answers.pop(0) if answers else ok("{}")) as replica:
            router = router_of("a")
            task = polled(router, replica, failures=3)
            while answers:
                assert row(router, "a")[AVAILABLE] == 1
                await asyncio.sleep(0.005)
            task.cancel()

    asyncio.run(check())


@pytest.mark.parametrize("number", ["-1", "1e300"])
def test_a_report_with_a_wrong_number_changes_nothing(number: str, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        said = ['{"running": 1, "waiting": 1}']
        async with Replica(lambda path: ok(said[0])) as replica:
            router = router_of("a")
            task = polled(router, replica)
            await until(lambda: row(router, "a")[RUNNING] == 1)
            said[0] = f'{{"running": 7, "waiting": {number}}}'
            asked = len(replica.asked)
            await until(lambda: len(replica.asked) > asked + 5)
            assert row(router, "a")[RUNNING] == 1
            assert not task.done()
            task.cancel()

    asyncio.run(check())
    assert caplog.text.count("a report is not used") == 1


HUGE = "1" + "0" * 400
"""An integer that no float can hold."""


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", HUGE, "9" * 5000])
def test_what_is_no_finite_number_is_not_said(number: str) -> None:
    said = json_report(f'{{"running": 7, "waiting": {number}, "age_s": {number}}}'.encode())
    assert said == ({} if len(number) > 4300 else {"running": 7})  # Python reads no longer integers
    ours = f"servegym:waiting {number}\nservegym:queued_prefill_tokens 1e308\n" * 2
    numbers = vllm_report(VLLM + ours + "servegym:kv_used_blocks 3\n")
    assert numbers == {"running": 5, "waiting": 2, "kv_total_blocks": 2000, "kv_used_blocks": 3}


@pytest.mark.parametrize(
    ("known", "instead"),
    [
        ('num_gpu_blocks="2000"', 'num_gpu_blocks="inf"'),
        ('num_gpu_blocks="2000"', 'num_gpu_blocks="nan"'),
        ('model_name="m"} 0.25', 'model_name="m"} 1e999'),
    ],
)
def test_memory_that_is_no_finite_number_is_not_said(known: str, instead: str) -> None:
    assert known in VLLM
    numbers = vllm_report(VLLM.replace(known, instead))
    assert numbers["running"] == 5 and "kv_used_blocks" not in numbers


@pytest.mark.parametrize(
    "answer",
    [
        ok(f'{{"running": {HUGE}}}'),
        ok('vllm:kv_cache_usage_perc 1e999\nvllm:cache_config_info{num_gpu_blocks="2"} 1\n'),
    ],
)
def test_one_replica_does_not_end_the_polling_of_others(answer: bytes) -> None:
    async def check() -> None:
        said = [1]
        async with (
            Replica(lambda path: answer) as odd,
            Replica(lambda path: ok(f'{{"running": {said[0]}}}')) as sound,
        ):
            router = router_of("odd", "sound")
            addresses = {"odd": odd.address, "sound": sound.address}
            task = asyncio.create_task(LoadReports(router, addresses, period_s=0.01, timeout_s=0.5).run())
            await until(lambda: len(odd.asked) > 5 or task.done())
            said[0] = 2
            await until(lambda: row(router, "sound")[RUNNING] == 2)
            assert not task.done()
            task.cancel()

    asyncio.run(check())


def test_whatever_goes_wrong_with_an_answer_makes_its_replica_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(body: bytes) -> dict[str, float]:
        raise ZeroDivisionError

    async def check() -> None:
        async with Replica(lambda path: ok('{"running": 1}')) as replica:
            router = router_of("a")
            monkeypatch.setattr(load_reports, "json_report", fails)
            task = polled(router, replica)
            await until(lambda: row(router, "a")[AVAILABLE] == 0 or task.done())
            assert not task.done()
            monkeypatch.undo()
            await until(lambda: row(router, "a")[AVAILABLE] == 1)
            task.cancel()

    asyncio.run(check())


def test_polling_ends_when_it_is_told_to_even_as_an_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        asked, comes = asyncio.Event(), asyncio.Event()

        async def read(where: str, path: str) -> tuple[dict[str, float], str]:
            asked.set()
            await comes.wait()
            return {"running": 1}, path

        monkeypatch.setattr(load_reports, "read_load", read)
        reports = LoadReports(router_of("a"), {"a": "host:1"}, period_s=0.01, timeout_s=10.0)
        task = asyncio.create_task(reports.run())
        await asked.wait()
        comes.set()
        task.cancel()
        await asyncio.wait({task}, timeout=5.0)
        ended = task.done()
        task.cancel()
        assert ended

    asyncio.run(check())


def test_an_answer_without_a_size_is_read_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_reports, "MAX_REPORT_BYTES", 1000)

    async def check() -> None:
        async with Replica(lambda path: ok(b"x" * 1000, sized=False)) as replica:
            assert await get(replica.address, "/") == (200, b"x" * 1000)
        async with Replica(lambda path: ok(b"x" * 1001, sized=False)) as replica:
            with pytest.raises(ValueError, match="too long"):
                await read_load(replica.address)

    asyncio.run(check())


def test_what_is_not_reported_is_in_the_routers_books() -> None:
    fleet = FleetView(["a"], report_max_age_s=1.0)
    fleet.sent(RoutedRequest("old", 160), "a", 0.0)
    fleet.report("a", {"running": 1, "waiting": 3}, 0.5)
    fleet.sent(RoutedRequest("new", 40), "a", 0.6)
    told = fleet.rows(0.7)[0]
    assert (told[RUNNING], told[WAITING], told[UNSEEN_REQUESTS]) == (1, 3, 1)
    # Both prompts are in the router's queue, so none of them is unseen.
    assert (told[QUEUED_PREFILL_TOKENS], told[UNSEEN_PREFILL_TOKENS]) == (200, 0)
    fleet.report("a", {"queued_prefill_tokens": 500}, 0.65)
    told = fleet.rows(0.7)[0]
    assert (told[WAITING], told[UNSEEN_REQUESTS]) == (2, 0)
    assert (told[QUEUED_PREFILL_TOKENS], told[UNSEEN_PREFILL_TOKENS]) == (500, 0)
    assert fleet.rows(2.0)[0][QUEUED_PREFILL_TOKENS] == 200


def test_requests_are_not_remembered_for_reports_that_never_come() -> None:
    fleet = FleetView(["a"], report_max_age_s=1.0)
    for i in range(1000):
        fleet.sent(RoutedRequest(str(i), 10), "a", float(i))
        fleet.ended(str(i))
    assert len(fleet._unseen[0]) <= 2
    fleet.report("a", {"waiting": 0, "queued_prefill_tokens": 0}, 998.5)
    told = fleet.rows(999.0)[0]
    assert (told[UNSEEN_REQUESTS], told[UNSEEN_PREFILL_TOKENS]) == (1, 10)


@pytest.mark.parametrize("where", ["", "host", ":80", "host:0", "host:70000", "host:x"])
def test_an_address_that_is_none_is_refused(where: str) -> None:
    with pytest.raises(InputError, match="must be host:port"):
        LoadReports(router_of("a"), {"a": where})


def test_an_address_may_be_of_ipv6() -> None:
    assert load_reports.address("[::1]:80") == ("::1", 80)
