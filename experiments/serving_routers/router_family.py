"""What a kind of router is to us: a command line for its policies, and when it is ready."""

import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

READY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Launch:
    """One start of a router. `python` belongs to the environment that has it, `folder` takes its files.

    options: more arguments of its command line.
    """

    python: str
    policy: str
    worker_urls: Sequence[str]
    port: int
    metrics_port: int
    folder: Path
    options: Sequence[str]


@dataclass(frozen=True)
class RouterFamily:
    """A kind of router that is started as a program of its own. Its policies are used as they ship."""

    name: str
    policies: tuple[str, ...]
    """As on its command line."""

    command: Callable[[Launch], list[str]]
    """The program and its arguments."""

    is_ready: Callable[[str, int], bool]
    """Whether the router at this URL sends requests to this many workers; OSError: it does not answer."""


def rust_launcher(module: str, log_level: str) -> Callable[[Launch], list[str]]:
    """The command of sglang-router and of what descends from it, which take the same arguments.

    Started as modules: two of them install a script of the same name.
    """

    def command(launch: Launch) -> list[str]:
        return [
            *(launch.python, "-I", "-m", f"{module}.launch_router"),
            *("--host", "127.0.0.1", "--port", str(launch.port)),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(launch.metrics_port)),
            *("--policy", launch.policy, "--log-level", log_level),
            *("--worker-urls", *launch.worker_urls),
            *launch.options,
        ]

    return command


def has_workers(url: str, num_workers: int) -> bool:
    """Whether a router of that descent has found so many healthy workers."""
    with urllib.request.urlopen(f"{url}/readiness", timeout=READY_TIMEOUT_S) as answer:
        return bool(json.load(answer)["healthy_workers"] == num_workers)
