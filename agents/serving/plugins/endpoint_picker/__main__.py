"""Starts an endpoint picker: `python -m servegym.agents.serving.plugins.endpoint_picker --help`."""

import argparse
import asyncio
import logging
import sys
import traceback
from pathlib import Path

from servegym.agents.serving.config import load_config, router_from_config
from servegym.agents.serving.plugins.endpoint_picker.picker import Limits, Picker
from servegym.agents.serving.plugins.endpoint_picker.server import Server, Tls
from servegym.agents.serving.routing.load_reports import LoadReports, address
from servegym.agents.serving.routing.router import Router
from servegym.agents.serving.telemetry.metrics import RouterMetrics
from servegym.agents.serving.telemetry.page_server import PROMETHEUS, Page, PageServer
from servegym.costmodels.errors import InputError

_LOG = logging.getLogger("servegym.endpoint_picker")


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is told to end (SIGTERM). Exit status 2 where the arguments cannot be used."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(
        level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        asyncio.run(_serve(given))
    except InputError as error:
        print(f"endpoint_picker: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(given: argparse.Namespace) -> None:
    limits = Limits(
        max_body_bytes=given.max_body_bytes,
        max_streams=given.max_streams,
        body_timeout_s=given.body_timeout_s,
        idle_timeout_s=given.idle_timeout_s,
        max_waiting=given.max_waiting,
        num_fallbacks=given.num_fallbacks,
        drain_s=given.drain_s,
    )
    replicas = [each for each in given.replicas.split(",") if each]
    router = router_from_config(load_config(given.config), replicas)
    tls = _tls(given)
    server = Server(Picker(router, limits), given.listen, tls)
    metrics = None if given.metrics is None else _metrics(router, given.metrics, tls)
    polling = _polling(router, replicas, given)
    try:
        await server.run()
    finally:
        if polling is not None:
            polling.cancel()
        if metrics is not None:
            metrics.close()


def _polling(router: Router, replicas: list[str], given: argparse.Namespace) -> asyncio.Task[None] | None:
    if given.report_period_s == 0:
        return None
    addresses = given.report_at.split(",") if given.report_at else replicas
    if len(addresses) != len(replicas):
        raise InputError(f"--report-at: must be as many as --replicas, {len(replicas)}")
    reports = LoadReports(
        router,
        dict(zip(replicas, addresses, strict=True)),
        period_s=given.report_period_s,
        timeout_s=given.report_timeout_s,
        failures=given.report_failures,
    )
    polling = asyncio.create_task(reports.run())
    polling.add_done_callback(_say_if_it_failed)
    return polling


def _say_if_it_failed(polling: asyncio.Task[None]) -> None:
    """Nobody waits for it: without a word dead replicas would stay available."""
    if polling.cancelled():
        return
    error = polling.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        _LOG.error(
            "replicas are not asked for their load any more: %s at %s:%s",
            type(error).__name__,
            where.filename,
            where.lineno,
        )


def _metrics(router: Router, where: str, tls: Tls | None) -> PageServer:
    counts = next((each for each in router.observers if isinstance(each, RouterMetrics)), None)
    if counts is None:
        raise InputError(f"--metrics = {where}: the configuration must have metrics = true")
    host, port = address(where)
    pages = {"/metrics": Page(PROMETHEUS, counts.exposition)}
    if tls is None:
        return PageServer(pages, host=host, port=port)
    return PageServer(
        pages, host=host, port=port, certificate=tls.certificate, key=tls.key, client_ca=tls.client_ca
    )


def _tls(given: argparse.Namespace) -> Tls | None:
    if given.tls_certificate is None and given.tls_key is None and given.tls_client_ca is None:
        return None
    if given.tls_certificate is None or given.tls_key is None:
        raise InputError("TLS: must have --tls-certificate and --tls-key")
    return Tls(given.tls_certificate, given.tls_key, given.tls_client_ca)


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(prog="endpoint_picker", description="Tells Envoy where requests go.")
    parser.add_argument("--config", type=Path, required=True, help="JSON of `servegym deploy`: the policy")
    parser.add_argument("--replicas", required=True, help="their endpoints, as in Envoy: ip:port,ip:port,...")
    parser.add_argument("--listen", default="127.0.0.1:9002", help="address:port (%(default)s)")
    parser.add_argument("--metrics", help="address:port of GET /metrics for Prometheus; none without it")
    parser.add_argument("--tls-certificate", type=Path, help="PEM; without it nothing is encrypted")
    parser.add_argument("--tls-key", type=Path, help="PEM")
    parser.add_argument("--tls-client-ca", type=Path, help="PEM: who signs certificates of clients")
    for option, kind, default, meaning in (
        (
            "--report-at",
            str,
            None,
            "where they report, in the same order: ip:port,...; without it: themselves",
        ),
        ("--report-period-s", float, 0.2, "how often replicas are asked; 0: never"),
        ("--report-timeout-s", float, 0.5, "how long a replica may take to report"),
        ("--report-failures", int, 3, "reports missed in a row that make a replica unavailable"),
    ):
        parser.add_argument(option, type=kind, default=default, help=f"{meaning} (%(default)s)")
    for name, kind, meaning in (
        ("max_body_bytes", int, "of a request"),
        ("max_streams", int, "requests under way at a time"),
        ("body_timeout_s", float, "from the first part of a request to its last"),
        ("idle_timeout_s", float, "between parts of an answer"),
        ("max_waiting", int, "waiting at every replica before requests of a priority above 0 get 429"),
        ("num_fallbacks", int, "endpoints named beside the best one"),
        ("drain_s", float, "for requests under way at the end"),
    ):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=kind, default=getattr(limits, name), help=f"{meaning} (%(default)s)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
