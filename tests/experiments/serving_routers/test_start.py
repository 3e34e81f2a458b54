"""What cannot be started is said in one line (tests/serving/routers starts what can)."""

import sys
from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.experiments.serving_routers.start import start_router

WORKERS = ["http://127.0.0.1:1"]


@pytest.mark.parametrize(
    "family, policy, workers, message",
    [
        (
            "nginx",
            "random",
            WORKERS,
            "unknown family 'nginx', allowed are envoy, sglang-router, smg, vllm-router",
        ),
        ("envoy", "fastest", WORKERS, "router envoy: unknown policy 'fastest', allowed are round_robin"),
        ("smg", "random", [], "no workers"),
        (
            "smg",
            "random",
            ["https://127.0.0.1:1"],
            "a worker at 'https://127.0.0.1:1', allowed is http://HOST:",
        ),
        ("smg", "random", ["http://127.0.0.1"], "a worker at 'http://127.0.0.1'"),
        ("smg", "random", ["http://127.0.0.1:1/v1"], "a worker at 'http://127.0.0.1:1/v1'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    family: str, policy: str, workers: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        start_router(family, policy, workers, sys.executable, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["envoy", "sglang-router", "smg", "vllm-router"])
def test_an_environment_without_the_router_is_named_as_the_reason(family: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"router {family}: ended at its start and said .*No module named"):
        start_router(family, "round_robin", WORKERS, sys.executable, tmp_path)
