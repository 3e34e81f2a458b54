"""The gRPC server of an endpoint picker: who may connect, how much is taken, how it ends."""

import asyncio
import logging
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from servegym.agents.serving.plugins.endpoint_picker.exchange import Exchange
from servegym.agents.serving.plugins.endpoint_picker.health import PROCESSOR, Health
from servegym.agents.serving.plugins.endpoint_picker.messages import MessageError, Refused, read_part
from servegym.agents.serving.plugins.endpoint_picker.picker import Picker
from servegym.costmodels.errors import InputError

MESSAGE_OVERHEAD_BYTES = 256 << 10
"""What a message holds beside a body, at most: headers and metadata."""

_LOG = logging.getLogger("servegym.endpoint_picker")


@dataclass(frozen=True)
class Tls:
    """Files of PEM. client_ca: whose certificates clients must have; None: anybody may connect."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> Any:
        """InputError where a file cannot be read."""
        try:
            pair = self.key.read_bytes(), self.certificate.read_bytes()
            client_ca = None if self.client_ca is None else self.client_ca.read_bytes()
        except OSError as error:
            raise InputError(f"TLS: {error}") from error
        return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=client_ca is not None)


class Server:
    """Serves ExternalProcessor and Health at `listen` ("address:port")."""

    def __init__(self, picker: Picker, listen: str, tls: Tls | None = None) -> None:
        self._picker, self._health = picker, Health()
        limits = picker.limits
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=limits.max_streams,
            options=[
                ("grpc.max_concurrent_streams", limits.max_streams),
                ("grpc.max_receive_message_length", limits.max_body_bytes + MESSAGE_OVERHEAD_BYTES),
                ("grpc.max_metadata_size", 16 << 10),
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
            ],
        )
        handler = grpc.stream_stream_rpc_method_handler(self._process)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(PROCESSOR, {"Process": handler}), self._health.handler())
        )
        try:
            if tls is None:
                self.port = self._server.add_insecure_port(listen)
            else:
                self.port = self._server.add_secure_port(listen, tls.credentials())
        except RuntimeError as error:
            raise InputError(f"listen = {listen}: cannot be bound") from error

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then ends as `stop` does."""
        told = asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, told.set)
        await self.start()
        await told.wait()
        await self.stop()

    async def start(self) -> None:
        """Serves from now on."""
        await self._server.start()
        _LOG.info("serves at port %d", self.port)

    async def stop(self) -> None:
        """Takes nobody new, and gives the requests under way `drain_s` seconds to end."""
        _LOG.info("ends; %d requests are under way", self._picker.num_under_way)
        self._health.is_draining.set()
        await self._server.stop(self._picker.limits.drain_s)

    async def _process(self, _: Any, context: Any) -> None:
        """One stream of parts: one HTTP request."""
        exchange = Exchange(self._picker)
        try:
            await self._converse(exchange, context)
        except TimeoutError:
            if not exchange.is_decided:
                await context.write(exchange.refuse(Refused(408, "the request did not end in time")))
        except MessageError as error:
            _LOG.warning("what came is no message: %s", error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no ProcessingRequest")
        except grpc.aio.BaseError:  # the proxy has gone
            pass
        except Exception as error:
            # A proxy that fails open sends the request on. What the error says may quote it.
            where = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("%s at %s:%s", type(error).__name__, where.filename, where.lineno)
            await context.abort(grpc.StatusCode.INTERNAL, "the picker failed")
        finally:
            exchange.close()

    async def _converse(self, exchange: Exchange, context: Any) -> None:
        limits, clock = self._picker.limits, asyncio.get_running_loop().time
        async with asyncio.timeout(limits.body_timeout_s) as limit:
            while not exchange.is_refused and (data := await context.read()) is not grpc.aio.EOF:
                try:
                    answers = exchange.answers(read_part(data))
                except Refused as refused:
                    answers = [exchange.refuse(refused)]
                for answer in answers:
                    await context.write(answer)
                if exchange.is_decided:
                    limit.reschedule(clock() + limits.idle_timeout_s)
