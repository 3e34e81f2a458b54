"""The gRPC health service, `grpc.health.v1.Health`, of an endpoint picker.

The service `liveness` is served as long as there is a process; `readiness`, the external processor and the
empty name, which stands for the server, are until the picker is told to end. That no replica is available is
no fault of the picker: it says so to each request (503).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from servegym.agents.serving.artifact.protobuf import BYTES, fields, number

PROCESSOR = "envoy.service.ext_proc.v3.ExternalProcessor"
LIVENESS, READINESS = "liveness", "readiness"

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """What the picker says of itself."""

    def __init__(self) -> None:
        self.is_draining = asyncio.Event()

    def handler(self) -> Any:
        """What a gRPC server is given."""
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    def status(self, service: str) -> int:
        """A ServingStatus."""
        if service == LIVENESS:
            return _SERVING
        if service in ("", READINESS, PROCESSOR):
            return _NOT_SERVING if self.is_draining.is_set() else _SERVING
        return _SERVICE_UNKNOWN

    async def _check(self, request: bytes, context: Any) -> bytes:
        status = self.status(await _service(request, context.abort))
        if status == _SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return number(1, status)

    async def _watch(self, request: bytes, context: Any) -> None:
        service = await _service(request, context.abort)
        await context.write(number(1, self.status(service)))
        await self.is_draining.wait()
        if self.status(service) == _NOT_SERVING:
            await context.write(number(1, _NOT_SERVING))


async def _service(request: bytes, abort: Callable[[Any, str], Awaitable[None]]) -> str:
    """The name in a HealthCheckRequest."""
    try:
        names = [value for field, wire, value in fields(memoryview(request)) if (field, wire) == (1, BYTES)]
        return bytes(names[-1]).decode() if names else ""
    except ValueError:
        await abort(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest")
        raise
