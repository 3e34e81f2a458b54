"""What all tests share: one thread, no display, repeatable property tests, real data where they are."""

import importlib
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser import Chromium

# Before anything imports torch or matplotlib; commands that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

LONGEST_S = 100
"""Of processor time, that a test may take in plain Python: one that is forgotten would take hours."""

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")

# The first example of a property may compile for seconds: no deadline, and slowness is not a failure.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", _patient, derandomize=True, print_blob=True)
settings.register_profile("search", _patient, max_examples=2000)  # HYPOTHESIS_PROFILE=search
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def examples(number: int) -> settings:
    """Decorator of a property: how many examples it is tried on; a twentieth of them in plain Python."""
    return settings(max_examples=number if COMPILED else max(10, number // 20))


def pytest_configure() -> None:
    """Removes stale compiled code once, before there are other processes that run tests."""
    importlib.import_module("servegym.costmodels.native.jit")
    signal.signal(signal.SIGVTALRM, _fail_for_time)


def _fail_for_time(*_: object) -> None:
    reason = f"took over {LONGEST_S} s of processor time in plain Python: mark it `compiled`"
    pytest.fail(reason, pytrace=False)  # pytest cannot show places without a line, where this may happen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Ends tests that should not be run in plain Python."""
    signal.setitimer(signal.ITIMER_VIRTUAL, 0 if COMPILED else LONGEST_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `compiled` where numba is switched off."""
    if COMPILED:
        return
    skip = pytest.mark.skip(reason="takes too long in plain Python (NUMBA_DISABLE_JIT)")
    for item in items:
        if item.get_closest_marker("compiled"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("traces/...")` is the path of a real trace; without the data the test is skipped."""
    from servegym.envs.workloads.data import find_data

    def path_of(name: str) -> Path:
        path = find_data(name)
        if path is None:
            pytest.skip(f"{name} is neither under SERVEGYM_DATA nor under ../shared/data")
        return path

    return path_of


@pytest.fixture(scope="session")
def chromium() -> "Generator[Chromium, None, None]":
    """The system's browser, started once a process; without it the test is skipped."""
    from tests.browser import Chromium

    executable = Chromium.installed()
    if executable is None:
        pytest.skip("no chromium is installed")
    browser = Chromium(executable)
    yield browser
    browser.close()


@pytest.fixture
def browser_page(chromium: "Chromium") -> "Generator[Page, None, None]":
    """An empty page (Playwright); the test fails if the page wants a network, or reports an error."""
    with chromium.page() as page:
        yield page
