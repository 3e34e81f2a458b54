"""A policy in front of SMG (the Shepherd Model Gateway): a header of each request says which worker gets it.

SMG has no place for a policy of others, but with `--policy consistent_hashing` it sends a request to the
worker whose index a header names. Indices count the workers that SMG would send to just now, in an order that
only its answers tell: they are asked for at the start, and anew whenever its workers change.
docs/serving/smg.md says how to use it.
"""

import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from servegym.agents.serving.routing.router import Router
from servegym.costmodels.errors import InputError

TARGET_HEADER = "x-smg-target-worker"
ROUTED_HEADER = "x-smg-routed-worker-id"

MAX_ANSWER_BYTES = 1 << 20
ATTEMPTS = 3
"""To ask for all indices while the workers stay the same."""

_LOG = logging.getLogger("servegym.smg")


class SmgPinning:
    """Which index SMG has for which worker; workers are named by their URLs.

    url: of SMG. model: what one token is asked for of each worker, to see which it is. router: is told which
    of its replicas SMG would send to; None: nobody. headers: go with each request, such as an Authorization.
    Thread-safe. InputError where SMG does not answer, or does not heed the header.
    """

    def __init__(
        self,
        url: str,
        model: str,
        router: Router | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"url = {url}: must be http://HOST:PORT or https://HOST:PORT")
        self.url, self.model, self.router = url.rstrip("/"), model, router
        self._headers, self._timeout_s = dict(headers or {}), timeout_s
        # Not by a proxy of the environment: SMG is a neighbour.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._refreshing = threading.Lock()
        self._seen: frozenset[tuple[str, bool]] = frozenset()
        self._stale = False
        self._index: dict[str, int] = {}
        self.calibrations = 0
        self._calibrate(twice=True)

    @property
    def workers(self) -> tuple[str, ...]:
        """URLs of those that SMG would send to, in the order of their indices."""
        index = self._index
        return tuple(sorted(index, key=index.__getitem__))

    def header(self, worker: str) -> dict[str, str]:
        """What pins a request to a worker. LookupError for one that SMG would not send to."""
        index = self._index.get(worker)
        if index is None:
            raise LookupError(f"{worker}: SMG has no such worker, or does not send to it now")
        return {TARGET_HEADER: str(index)}

    def landed(self, worker: str, headers: Mapping[str, str]) -> str:
        """Where a request went that was pinned to `worker`, by the headers of its answer.

        Elsewhere, or nowhere: then the indices are not what they were, and `refresh` asks for them.
        """
        went = {name.lower(): value for name, value in headers.items()}.get(ROUTED_HEADER, "")
        if went != worker:
            self._stale = True
        return went

    def refresh(self) -> bool:
        """Asks for the indices if SMG's workers have changed or a request went astray; says whether it did.

        InputError where SMG does not answer; the indices then stay as they are.
        """
        with self._refreshing:
            if not (self._stale or self._look() != self._seen):
                return False
            try:
                self._calibrate()
            except InputError:
                self._stale = True
                raise
            return True

    @contextmanager
    def watched(self, interval_s: float = 0.5) -> Iterator[None]:
        """Refreshes every `interval_s` seconds inside; SMG not answering is logged, once in a row."""
        ends = threading.Event()

        def watch() -> None:
            silent = False
            while not ends.wait(interval_s):
                try:
                    self.refresh()
                    silent = False
                except InputError as error:
                    if not silent:
                        _LOG.warning("%s", error)
                    silent = True

        thread = threading.Thread(target=watch, name="servegym smg", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()

    def _look(self) -> frozenset[tuple[str, bool]]:
        """SMG's workers of the model, and whether it would send to them."""
        status, _, answer = self._ask("/workers")
        try:
            workers = json.loads(answer)["workers"]
            return frozenset(
                (str(each["url"]), bool(each["is_healthy"]) and each["status"] == "ready")
                for each in workers
                if self.model in (each["model_id"], *(model["id"] for model in each["models"]))
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.url}/workers: status {status}, and not a list of workers") from error

    def _calibrate(self, twice: bool = False) -> None:
        """Asks for all indices; `twice`: and backwards, where the header would have to be heeded."""
        for _ in range(ATTEMPTS):
            self._stale, seen = False, self._look()
            indices = range(sum(available for _, available in seen))
            found = self._ask_all(indices)
            again = self._ask_all(reversed(indices)) if twice else found
            if self._look() == seen:
                break
        index = {worker: i for i, worker in found.items()}
        if again != found or len(index) != len(found):
            raise InputError(
                f"{self.url}: sends requests elsewhere than {TARGET_HEADER} says: "
                "SMG must be started with --policy consistent_hashing"
            )
        self._seen, self._index = seen, index
        self.calibrations += 1
        if self.router is not None:
            for name in self.router.fleet.names:
                self.router.set_available(name, name in index)
        _LOG.info("SMG sends to %s", ", ".join(self.workers) or "nobody")

    def _ask_all(self, indices: Iterable[int]) -> dict[int, str]:
        """The worker of each index, by asking it for one token; without those that do not answer."""
        body = {"model": self.model, "prompt": "a", "max_tokens": 1, "temperature": 0}
        found = {}
        for i in indices:
            _, headers, _ = self._ask("/v1/completions", body, {TARGET_HEADER: str(i)})
            if ROUTED_HEADER in headers:
                found[i] = headers[ROUTED_HEADER]
        return found

    def _ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by their names in small letters, and content; InputError where nothing comes."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json", **self._headers, **(headers or {})},
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                status, found, content = answer.status, answer.headers, answer.read(MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            status, found, content = error.code, error.headers, b""
        except (OSError, HTTPException) as error:  # the latter where it breaks off
            raise InputError(f"{self.url}{path}: does not answer: {error!r}") from error
        return status, {name.lower(): value for name, value in found.items()}, content
