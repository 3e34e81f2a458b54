"""OpenAI-compatible workers without a GPU, in one thread: they stream tokens, and hold some answers back.

They answer what routers ask of an engine beside: its health, its model, its version, and its load in the
forms of vLLM and SGLang.
"""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

MODEL = "fake"
MAX_TOKENS = 8192
HOLD = "hold"
"""A prompt with this word gets one token, and the others once `FakeWorkers.release` is called."""


@dataclass
class FakeWorker:
    """What one worker has seen: prompts in order, answers under way, how often a path was asked for."""

    name: str
    port: int = 0
    running: int = 0
    prompts: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        try:
            while await self._answer(reader, writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the end of the connection, or of the workers
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, version = start.split(" ")
        if version != "HTTP/1.1":  # some ask whether a worker speaks HTTP/2
            return False
        pairs = [line.partition(":") for line in lines]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        self.asked[path] += 1
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "POST" and path == "/v1/completions":
            await self._complete(json.loads(body), writer)
        elif method == "POST" and path == "/tokenize":  # as vLLM does, with one token a byte
            tokens = list(json.loads(body)["prompt"].encode())
            write(writer, 200, {"count": len(tokens), "max_model_len": MAX_TOKENS, "tokens": tokens})
        else:
            write(writer, *self._about(path.partition("?")[0]))
        return True

    async def _complete(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        prompt = request["prompt"]
        self.prompts.append(prompt)
        self.running += 1
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            writer.write(b"transfer-encoding: chunked\r\n\r\n")
            for number in range(request["max_tokens"]):
                choice = {"index": 0, "text": f"{number} "}
                write_event(writer, json.dumps({"id": "1", "model": MODEL, "choices": [choice]}))
                await writer.drain()
                if HOLD in prompt:
                    await self.released.wait()
            write_event(writer, "[DONE]")
            writer.write(b"0\r\n\r\n")
        finally:
            self.running -= 1

    def _about(self, path: str) -> tuple[int, Any]:
        load = {"dp_rank": 0, "num_reqs": self.running, "num_waiting_reqs": 0, "num_tokens": 9 * self.running}
        model = {"id": MODEL, "object": "model", "max_model_len": MAX_TOKENS}
        answers: dict[str, Any] = {
            "/health": {},
            "/v1/models": {"object": "list", "data": [model]},
            "/model_info": {"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True},
            "/server_info": {"model_path": MODEL, "served_model_name": MODEL, "dp_size": 1, "version": "0.5"},
            "/get_load": [load],
            "/v1/loads": {"timestamp": 1.0, "dp_rank_count": 1, "loads": [load], "aggregate": load},
            "/version": {"version": "0.33.0"},
            "/metrics": f'vllm:num_requests_running{{model_name="{MODEL}"}} {self.running}\n',
        }
        return (200, answers[path]) if path in answers else (404, {"error": path})


def write(writer: asyncio.StreamWriter, status: int, content: Any) -> None:
    """A whole answer: text, or JSON."""
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    kind = "text/plain" if isinstance(content, str) else "application/json"
    head = f"HTTP/1.1 {status} -\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def write_event(writer: asyncio.StreamWriter, text: str) -> None:
    """A part of a streamed answer."""
    data = f"data: {text}\n\n".encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


class FakeWorkers:
    """Some workers on free ports, from entering to leaving."""

    def __init__(self, count: int) -> None:
        self.workers = [FakeWorker(f"worker{number}") for number in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def release(self) -> None:
        """Lets all answers go on that are held back."""
        for worker in self.workers:
            self._loop.call_soon_threadsafe(worker.released.set)

    def __enter__(self) -> Self:
        self._thread.start()
        for worker in self.workers:
            starting = asyncio.start_server(worker.serve, "127.0.0.1", 0)
            server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
            worker.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Ends the connections, for what runs in a loop must end before it is closed."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
