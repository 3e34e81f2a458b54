"""Many streams through Envoy and picker while replicas and the picker fail on the way."""

import asyncio
import json
import math
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.serving.envoy.stack import LEAST_LOADED, call, free_port
from tests.serving.envoy.streams import Outcomes, client

TOKENS, FIRST_S, TOKEN_S = 5, (0.5, 2.0), (0.2, 0.8)
"""Of an answer, and seconds until its first token and between two, drawn evenly."""


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch:
    """What fails when, and how much memory picker and Envoy have meanwhile."""

    def __init__(self, stack, outcomes: Outcomes, num_requests: int) -> None:
        self.stack, self.outcomes, self.num_requests = stack, outcomes, num_requests
        self.killed, self.paused = stack.names[0], stack.names[1]
        self.picker_mib: list[float] = []
        self.envoy_mib: list[float] = []
        self.without_picker_s = 0.0

    async def at(self, share: float) -> None:
        while self.outcomes.num_over < share * self.num_requests:
            await asyncio.sleep(0.05)

    async def fail(self) -> None:
        processes = self.stack.processes
        await self.at(0.1)
        processes["picker"].kill()
        processes["picker"].wait()
        began_s = time.monotonic()
        await asyncio.sleep(3)
        await asyncio.to_thread(self.stack.start_picker)
        self.without_picker_s = time.monotonic() - began_s
        await self.at(0.35)
        processes[self.killed].kill()
        await self.at(0.6)
        os.kill(processes[self.paused].pid, signal.SIGSTOP)
        await asyncio.sleep(8)
        os.kill(processes[self.paused].pid, signal.SIGCONT)

    async def measure(self) -> None:
        """Of the second picker, which lasts, when it has had all the streams at once."""
        while not self.without_picker_s:
            await asyncio.sleep(0.2)
        await asyncio.sleep(WARM_UP_S)
        while True:
            self.picker_mib.append(resident_mib(self.stack.processes["picker"].pid))
            self.envoy_mib.append(resident_mib(self.stack.processes["envoy"].pid))
            await asyncio.sleep(0.5)


WARM_UP_S = 20.0


def quarters(samples: list[float]) -> tuple[float, float]:
    """The mean of the first quarter and of the last."""
    if not samples:
        return math.nan, math.nan
    size = max(1, len(samples) // 4)
    return sum(samples[:size]) / size, sum(samples[-size:]) / size


async def run(stack, num_streams: int, num_requests: int) -> tuple[Outcomes, Watch, float]:
    outcomes = Outcomes()
    generator = random.Random(0)
    bodies = (
        {
            "id": f"r{i}",
            "tokens": TOKENS,
            "first_s": round(generator.uniform(*FIRST_S), 3),
            "token_s": round(generator.uniform(*TOKEN_S), 3),
            "stream": True,
            "prompt": "x" * 500,
        }
        for i in range(num_requests)
    )
    watch = Watch(stack, outcomes, num_requests)
    began_s = time.monotonic()
    measuring = asyncio.create_task(watch.measure())
    failing = asyncio.create_task(watch.fail())

    async def one(i: int) -> None:
        await asyncio.sleep(3.0 * i / num_streams)
        await client(stack.port, bodies, outcomes)

    await asyncio.gather(*(one(i) for i in range(num_streams)))
    await failing
    measuring.cancel()
    return outcomes, watch, time.monotonic() - began_s


@pytest.mark.parametrize(
    ("num_streams", "num_requests"),
    [(200, 3_000), pytest.param(1_000, 50_000, marks=pytest.mark.slow)],
)
def test_no_request_is_lost_that_a_healthy_replica_could_serve(
    stack, num_streams: int, num_requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**LEAST_LOADED, "metrics": True, "decision_log": None}
    metrics_port = free_port()
    options = ["--metrics", f"127.0.0.1:{metrics_port}"]
    it = stack(
        replicas=8,
        config=config,
        options=options,
        setup={"first_byte_timeout_s": 6.0, "picker_timeout_s": 2.0},
    )
    outcomes, watch, took_s = asyncio.run(run(it, num_streams, num_requests))
    alive = [name for name in it.names if name != watch.killed]
    stats = {name: it.stats(name) for name in alive}
    ended: list[str] = [request for each in stats.values() for request in each["ended"]]
    page = call(metrics_port, "GET", "/metrics").body.decode()
    decided = sum(
        float(value) for value in re.findall(r"^servegym_router_decisions_total{.*} (.*)$", page, re.M)
    )
    allowed = it.envoy_stats("failure_mode_allowed")
    latencies_s = sorted(outcomes.latencies_s)
    picker_mib, envoy_mib = quarters(watch.picker_mib), quarters(watch.envoy_mib)
    figures = {
        "requests": num_requests,
        "streams": num_streams,
        "answered": len(outcomes.answered),
        "cut with the killed replica, their answers begun": len(outcomes.cut),
        "lost": len(outcomes.failed),
        "answers nobody asked for": outcomes.doubled,
        "finished by two replicas": len(ended) - len(set(ended)),
        "decided by the second picker": int(decided),
        "sent on by Envoy without a decision": sum(allowed.values()),
        "seconds without picker": round(watch.without_picker_s, 1),
        "seconds": round(took_s, 1),
        "requests a second": round(num_requests / took_s, 1),
        "latency p50, p99, max": [
            round(latencies_s[int(q * (len(latencies_s) - 1))], 2) for q in (0.5, 0.99, 1)
        ],
        "MiB of the picker, first and last quarter": [round(each, 1) for each in picker_mib],
        "MiB of Envoy, first and last quarter": [round(each, 1) for each in envoy_mib],
    }
    with capsys.disabled():
        print("\n" + json.dumps(figures, indent=1))
    assert outcomes.failed == {}
    assert set(outcomes.cut.values()) <= {watch.killed}
    assert len(outcomes.cut) <= num_streams
    assert len(outcomes.answered) + len(outcomes.cut) == num_requests
    assert outcomes.doubled == 0
    # A replica that was paused finishes what was given up, for nobody: who is dead cannot be asked.
    assert set(ended) >= {request for request, name in outcomes.answered.items() if name != watch.killed}
    twice = [request for request, count in Counter(ended).items() if count > 1]
    assert set(twice) <= set(stats[watch.paused]["ended"])
    assert decided > 0.5 * num_requests
    if num_requests > 10_000:  # else it is still warming up
        assert picker_mib[1] < 1.1 * picker_mib[0]
