"""Load on emulated workers, and on servers that do it wrong: what is counted, not how long it takes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import Workload
from servegym.experiments.emulation.http_server import Handler, HttpServer, Reply, Request
from servegym.experiments.load_generator.drive import LoadSettings, drive
from tests.experiments.emulation.asking import ask, workers_of
from tests.experiments.load_generator.test_received_stream import DONE, tokens

pytestmark = pytest.mark.compiled

QUICK = LoadSettings("small", time_scale=0.01)

WORKLOAD = Workload(
    name="thirty",
    arrival_s=np.arange(30) / 10,
    prompt_tokens=np.arange(1, 31) * 20,
    output_tokens=np.arange(1, 31),
)


@pytest.mark.parametrize("settings", [QUICK, replace(QUICK, api="chat"), replace(QUICK, prompts="token_ids")])
def test_every_request_is_answered_once(settings: LoadSettings) -> None:
    async def run() -> None:
        async with workers_of() as workers:
            results = await drive(WORKLOAD, workers.urls, settings)
            summary = results.summary()
            assert (summary["num_requests"], summary["num_finished"], summary["num_lost"]) == (30, 30, 0)
            assert summary["num_duplicated"] == summary["num_wrong"] == 0
            assert results.per_replica() == {0: 15, 1: 15}
            assert results.results.replica.tolist() == [0, 1] * 15
            assert results.num_tokens.tolist() == WORKLOAD.output_tokens.tolist()
            assert set(results.errors) == {""}
            np.testing.assert_allclose(results.results.arrival_s, WORKLOAD.arrival_s, atol=1e-9)
            assert (results.sent_s >= results.results.arrival_s).all()
            assert (results.results.first_token_s > results.sent_s).all()
            assert (results.results.finish_s >= results.results.first_token_s).all()
            reports = [(await ask(url, "GET", "/load")).json for url in workers.urls]
            assert sum(report["received_prompt_tokens"] for report in reports) == WORKLOAD.prompt_tokens.sum()
            assert [report["received_requests"] for report in reports] == [15, 15]

    asyncio.run(run())


def test_predictions_priorities_and_sessions_go_along() -> None:
    seen: list[Request] = []

    def handle(request: Request, reply: Reply) -> None:
        seen.append(request)
        of = request.headers["x-request-id"]
        reply.finish(reply.head("text/event-stream"), tokens(1, of=of) + DONE)

    workload = Workload(
        name="three",
        arrival_s=np.zeros(3),
        prompt_tokens=np.array([5, 5, 9]),
        output_tokens=np.ones(3, int),
        predicted_output_tokens=np.array([7, 8, 9]),
        priority=np.array([0, -1, 2]),
        parent=np.array([-1, -1, 0]),
        think_s=np.array([0.0, 0.0, 0.5]),
    )

    async def run() -> None:
        async with serving(handle) as url:
            results = (await drive(workload, [url], replace(QUICK, run_id="run"))).results
            assert results.finished.all()
            assert results.arrival_s[2] == pytest.approx(results.finish_s[0] + 0.5)

    asyncio.run(run())
    assert [request.headers["x-request-id"] for request in seen] == ["run-0", "run-1", "run-2"]
    assert [request.headers["x-session-id"] for request in seen] == ["run-0", "run-1", "run-0"]
    assert [request.headers["x-servegym-prompt-tokens"] for request in seen] == ["5", "5", "9"]
    assert [request.headers["x-servegym-predicted-output-tokens"] for request in seen] == ["7", "8", "9"]
    assert [request.json()["priority"] for request in seen] == [0, -1, 2]
    prompts = [request.json()["prompt"] for request in seen]
    assert prompts[2].startswith(prompts[0]) and list(map(len, prompts)) == [20, 20, 36]


def test_clients_leave_when_their_patience_is_over() -> None:
    async def run() -> None:
        async with workers_of(time_scale=1.0) as workers:
            impatient = replace(
                WORKLOAD,
                arrival_s=np.zeros(30),
                output_tokens=np.full(30, 10_000),
                cancel_after_s=np.full(30, 0.2),
            )
            results = await drive(impatient, workers.urls, LoadSettings("small"))
            assert results.summary()["num_cancelled"] == 30
            assert set(results.errors) == {""}
            assert (results.results.cancelled_s >= 0.2).all()
            while (await ask(workers.urls[0], "GET", "/load")).json["running"] > 0:
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_what_a_killed_worker_had_is_lost() -> None:
    async def run() -> None:
        async with workers_of(time_scale=1.0, admin=True) as workers:
            long = replace(WORKLOAD, arrival_s=np.arange(30) * 0.02, output_tokens=np.full(30, 60))
            driving = asyncio.create_task(drive(long, workers.urls, LoadSettings("small")))
            while (await ask(workers.urls[0], "GET", "/load")).json["running"] == 0:
                await asyncio.sleep(0.01)
            with pytest.raises(ConnectionError):
                await ask(workers.urls[0], "POST", "/admin/kill")
            results = await driving
            summary = results.summary()
            assert summary["num_finished"] == 15 and summary["num_lost"] == 15
            assert summary["num_cut_off"] >= 1 and summary["num_unanswered"] >= 1
            assert summary["num_cut_off"] + summary["num_unanswered"] == 15
            assert all(results.errors[i] for i in range(0, 30, 2))
            assert results.table().column("outcome").to_pylist() == ["lost", "finished"] * 15

    asyncio.run(run())


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[str]:
    """A server that answers as it likes."""
    server = HttpServer(handle, {})
    await server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def test_wrong_answers_are_counted_as_such() -> None:
    answers = [
        lambda of: tokens(1, 2, of=of) + DONE,
        lambda of: tokens(1, 1, 2, of=of) + DONE,
        lambda of: tokens(1, of=of) + DONE,
        lambda of: tokens(1, 2, of="run-0") + DONE,
        lambda of: tokens(2, 1, of=of) + DONE,
        None,
    ]

    def handle(request: Request, reply: Reply) -> None:
        of = request.headers["x-request-id"]
        answer = answers[int(of.removeprefix("run-"))]
        if answer is None:
            reply.send_json(503, {"error": {"message": "too many"}})
        else:
            reply.finish(reply.head("text/event-stream"), answer(of))

    workload = replace(
        WORKLOAD.take(slice(6)), arrival_s=np.arange(6.0), output_tokens=np.full(6, 2, np.int32)
    )

    async def run() -> None:
        async with serving(handle) as url:
            results = await drive(workload, [url], replace(QUICK, run_id="run"))
            assert results.results.finished.tolist() == [True, False, False, False, False, False]
            assert results.num_repeated.tolist() == [0, 1, 0, 0, 0, 0]
            assert results.answered_twice.tolist() == [False, False, False, True, False, False]
            assert results.wrong.tolist() == [False, False, False, True, True, False]
            assert results.status.tolist() == [200] * 5 + [503]
            assert results.errors[2] == "1 tokens came" and results.errors[5] == "status 503: too many"
            summary = results.summary()
            assert (summary["num_duplicated"], summary["num_wrong"], summary["num_refused"]) == (2, 2, 1)

    asyncio.run(run())


def test_what_cannot_be_driven() -> None:
    def refused(workload: Workload, *targets: str) -> str:
        with pytest.raises(InputError) as error:
            asyncio.run(drive(workload, targets, QUICK))
        return str(error.value)

    assert "target = ftp://a: must be an address" in refused(WORKLOAD, "ftp://a")
    assert "target = http://a:b: must be an address" in refused(WORKLOAD, "http://a:b")
    assert "target = http://127.0.0.1:1: cannot be reached" in refused(WORKLOAD, "http://127.0.0.1:1")
    assert "image_tokens" in refused(replace(WORKLOAD, image_tokens=np.ones(30, int)), "http://127.0.0.1:1")
    for wrong in ({"time_scale": 0.0}, {"timeout_s": -1.0}, {"api": "x"}, {"prompts": "x"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            LoadSettings("small", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prompts = token_ids: must be text"):
        LoadSettings("small", api="chat", prompts="token_ids")
