"""Load: requests sent to an OpenAI endpoint when they are due, whatever has come back by then."""

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from servegym.agents.serving.routing.request_features import PREDICTED_HEADER
from servegym.costmodels.errors import InputError
from servegym.envs.workloads import Workload
from servegym.experiments.load_generator.http_client import HttpClient
from servegym.experiments.load_generator.load_results import LoadResults
from servegym.experiments.load_generator.received_stream import ReceivedStream, request_id
from servegym.experiments.load_generator.synthetic_prompts import SyntheticPrompts

APIS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
PROMPTS = ("text", "token_ids")


@dataclass(frozen=True)
class LoadSettings:
    """How load is driven.

    model: its name in the requests. time_scale: seconds on the wall of one of the workload. api: one of APIS.
    prompts: one of PROMPTS; a chat has a text. timeout_s: on the wall, after which a request is given up.
    run_id: requests of the same one are the same, ids and contents; of another they share nothing.
    """

    model: str
    time_scale: float = 1.0
    api: str = "completions"
    prompts: str = "text"
    timeout_s: float = 600.0
    run_id: str = field(default_factory=lambda: secrets.token_hex(3))

    def __post_init__(self) -> None:
        for key in ("time_scale", "timeout_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise InputError(f"{key} = {getattr(self, key)}: must be positive and finite")
        for key, allowed in (("api", tuple(APIS)), ("prompts", PROMPTS)):
            if getattr(self, key) not in allowed:
                raise InputError(f"{key} = {getattr(self, key)}: must be one of {', '.join(allowed)}")
        if self.api == "chat" and self.prompts != "text":
            raise InputError(f"prompts = {self.prompts}: must be text with api chat")


async def drive(workload: Workload, targets: Sequence[str], settings: LoadSettings) -> LoadResults:
    """Sends every request to one of the targets, addresses such as http://127.0.0.1:8000, in turns.

    Open loop: a request is sent at its arrival; one that follows up on another comes its time to think after
    the end of that, and never if that fails. A client that would cancel leaves at its time.
    InputError where a target cannot be reached, or where requests have images.
    """
    if workload.image_tokens is not None:
        raise InputError(f"workload {workload.name!r}: has image_tokens, which no prompt here has")
    clients = [HttpClient(target) for target in targets]
    for target, client in zip(targets, clients, strict=True):
        await _require_reachable(target, client)
    try:
        return await _Run(workload, clients, settings).to_the_end()
    finally:
        for client in clients:
            client.close()


async def _require_reachable(target: str, client: HttpClient) -> None:
    try:
        _, writer = await asyncio.open_connection(client.host, client.port)
    except OSError as error:
        raise InputError(f"target = {target}: cannot be reached ({error.strerror or error})") from None
    writer.close()


class _Run:
    """The requests of one workload under way. Times on the wall are `time.monotonic`."""

    def __init__(self, workload: Workload, clients: list[HttpClient], settings: LoadSettings) -> None:
        self._workload, self._clients, self._settings = workload, clients, settings
        self._prompts = SyntheticPrompts(workload, as_text=settings.prompts == "text", salt=settings.run_id)
        count = workload.num_requests
        self._streams: list[ReceivedStream | None] = [None] * count
        self._due_s, self._sent_s = np.full(count, np.nan), np.full(count, np.nan)
        self._cancelled_s = np.full(count, np.nan)
        self._followers: dict[int, list[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: np.ndarray | None = workload.session_id
        if workload.parent is not None:
            for i, parent in enumerate(workload.parent.tolist()):
                if parent >= 0:
                    self._followers.setdefault(parent, []).append(i)
            if self._session is None:
                self._session = workload.first_of_chain()

    async def to_the_end(self) -> LoadResults:
        """Sends everything and waits for the last answer."""
        began_s = time.monotonic() + 0.1
        arrival_s = self._workload.arrival_s * self._settings.time_scale
        followers = {i for each in self._followers.values() for i in each}
        for i in range(self._workload.num_requests):
            if i in followers:
                continue
            due_s = began_s + float(arrival_s[i])
            if (left_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(left_s)
            self._start(i, due_s)
        while self._tasks:
            await asyncio.wait(self._tasks)
        return LoadResults.of(
            self._workload,
            self._streams,
            due_s=self._due_s - began_s,
            sent_s=self._sent_s - began_s,
            cancelled_s=self._cancelled_s - began_s,
            began_s=began_s,
            time_scale=self._settings.time_scale,
        )

    def _start(self, number: int, due_s: float) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(number, due_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, number: int, due_s: float) -> None:
        """One request from its sending to its end, and then those that follow it."""
        workload, settings = self._workload, self._settings
        over = asyncio.Event()
        stream = self._streams[number] = ReceivedStream(settings.run_id, number, over.set)
        headers, body = self._message(number)
        client = self._clients[number % len(self._clients)]
        self._due_s[number], self._sent_s[number] = due_s, time.monotonic()
        connection = await client.send("POST", APIS[settings.api], headers, body, stream)
        patience_s = np.inf
        if workload.cancel_after_s is not None:
            patience_s = float(workload.cancel_after_s[number]) * settings.time_scale
        limit_s = min(patience_s, settings.timeout_s)
        try:
            await asyncio.wait_for(over.wait(), max(0.0, due_s + limit_s - time.monotonic()))
        except TimeoutError:
            if patience_s <= settings.timeout_s:
                self._cancelled_s[number] = time.monotonic()
            else:
                stream.error = f"no end within {settings.timeout_s} s"
            if connection is not None:
                connection.abort()
            return
        if workload.think_s is not None and stream.is_whole(int(workload.output_tokens[number])):
            for follower in self._followers.get(number, ()):
                think_s = float(workload.think_s[follower]) * settings.time_scale
                await asyncio.sleep(max(0.0, stream.last_token_s + think_s - time.monotonic()))
                self._start(follower, stream.last_token_s + think_s)

    def _message(self, number: int) -> tuple[dict[str, str], bytes]:
        """Headers and body of a request."""
        workload, settings = self._workload, self._settings
        prompt = self._prompts[number]
        body = {
            "model": settings.model,
            "max_tokens": int(workload.output_tokens[number]),
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if settings.api == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if workload.priority is not None:
            body["priority"] = int(workload.priority[number])
        headers = {
            "content-type": "application/json",
            "x-request-id": request_id(settings.run_id, number),
            "x-servegym-prompt-tokens": str(int(workload.prompt_tokens[number])),
        }
        if workload.predicted_output_tokens is not None:
            headers[PREDICTED_HEADER] = str(int(workload.predicted_output_tokens[number]))
        if self._session is not None:
            headers["x-session-id"] = request_id(settings.run_id, int(self._session[number]))
        return headers, json.dumps(body).encode()
