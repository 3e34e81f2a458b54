"""Exported router networks as compiled C: a decision takes microseconds, and needs a C compiler once."""

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, REQUEST_FEATURES, SETTING_FEATURES
from servegym.agents.serving.networks.c_source import router_source
from servegym.agents.serving.networks.numpy_networks.router_inputs import Weights
from servegym.costmodels.errors import InputError

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # sums of forecasts are rounded as everywhere else (c/inputs.c)
    "-fvisibility=hidden",
    "-fPIC",
    "-shared",
)

MARCH = {"x86_64": "-march=x86-64-v3", "AMD64": "-march=x86-64-v3"}
"""By machine: AVX2 and FMA, of servers since 2013 (Intel) and 2015 (AMD); others: what the compiler takes for
granted. Which processors a library runs on is asked before it is used."""

COMPILE_TIMEOUT_S = 300.0

NOT_A_NUMBER, NOT_ITS_SIZE = -1, -2
"""What `servegym_scores` returns where it does not decide."""


class CompiledNetwork:
    """A network of `c_source.SHAPES` from what `policy.json` says of it and its arrays, compiled once.

    cache_dir: where compiled ones are kept; None: `servegym/compiled` in the user's cache. InputError where
    the network cannot be compiled, there is no compiler, or others than the user can write to the cache: what
    lies there is run. For one thread at a time.
    """

    name = "compiled"

    def __init__(self, network: Mapping[str, Any], weights: Weights, cache_dir: Path | None = None) -> None:
        source = router_source(network["kind"], network["layers"], weights)
        library = load_library(compiled_library(source, cache_dir or default_cache()))
        self._decide = library.servegym_scores
        self._work_floats = library.servegym_work_floats
        self._request = np.zeros(len(REQUEST_FEATURES), np.float32)
        self._setting = np.zeros(len(SETTING_FEATURES), np.float32)
        self._resize(1)

    def scores(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (K, R) of arrays with a leading axis K, float32."""
        count, num_replicas = observation["replicas"].shape[:2]
        scores = np.empty((count, num_replicas), np.float32)
        for k in range(count):
            scores[k] = self.score_one({name: array[k] for name, array in observation.items()})
        return scores

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (R,) of arrays without that axis, in a buffer that the next call overwrites.

        NaN where an input that matters is no number. ValueError for another fleet than the network's.
        """
        replicas = observation["replicas"]
        if len(replicas) != len(self._replicas):
            self._resize(len(replicas))
        self._request[...] = observation["request"]
        self._replicas[...] = replicas
        self._setting[...] = observation["setting"]
        legal = self._decide(*self._pointers)
        if legal == NOT_ITS_SIZE:
            raise ValueError(f"a fleet of {len(replicas)} is not of the size that this network is for")
        if legal == NOT_A_NUMBER:
            self._scores[...] = np.nan
        return self._scores

    def _resize(self, num_replicas: int) -> None:
        """Memory for fleets of a size; its addresses are asked for once, which takes as long as to decide."""
        self._replicas = np.zeros((num_replicas, len(REPLICA_FEATURES)), np.float32)
        self._scores = np.zeros(num_replicas, np.float32)
        self._work = np.zeros(self._work_floats(num_replicas), np.float32)
        self._pointers = (
            self._request.ctypes.data,
            self._replicas.ctypes.data,
            self._setting.ctypes.data,
            num_replicas,
            self._scores.ctypes.data,
            self._work.ctypes.data,
        )


def default_cache() -> Path:
    """Where compiled networks are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servegym" / "compiled"


def compiled_library(source: str, cache_dir: Path) -> Path:
    """The shared library of C `source` in `cache_dir`, compiled if it is not there."""
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = cache_dir.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise InputError(
            f"{cache_dir}: must be the user's own and not writable by others; what is there is run"
        )
    command = "\0".join([*_command(), _compiler_version()])
    key = hashlib.sha256(f"{command}\0{source}".encode()).hexdigest()
    path = cache_dir / f"{key}.so"
    if not path.exists():
        compile_library(source, path)
    return path


def compile_library(source: str, path: Path) -> None:
    """Compiles C `source` to a shared library, which appears complete or not at all.

    The compiler is `cc`, or what the variable CC says. InputError where there is none or it fails.
    """
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".so")
    os.close(handle)
    try:
        command = [*_command(), "-o", part, "-x", "c", "-", "-lm"]
        done = subprocess.run(
            command, input=source, text=True, capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise InputError(f"{command[0]} exits with {done.returncode}: {first}")
        os.chmod(part, 0o755)
        os.replace(part, path)
    except FileNotFoundError as error:
        raise InputError(_NO_COMPILER.format(_command()[0])) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{_command()[0]}: still compiling after {COMPILE_TIMEOUT_S:g} s") from error
    finally:
        Path(part).unlink(missing_ok=True)


def load_library(path: Path) -> ctypes.CDLL:
    """A compiled library, its functions typed. InputError where this processor cannot run it."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be loaded: {error}") from error
    if not library.servegym_runs_here():
        raise InputError(f"{path}: compiled for a newer processor ({MARCH.get(platform.machine(), 'any')})")
    library.servegym_work_floats.argtypes = [ctypes.c_int]
    library.servegym_work_floats.restype = ctypes.c_long
    pointer = ctypes.c_void_p
    library.servegym_scores.argtypes = [pointer, pointer, pointer, ctypes.c_int, pointer, pointer]
    return library


_NO_COMPILER = "{}: no C compiler of that name; install one, name one by CC, or use another backend"


def _command() -> list[str]:
    march = MARCH.get(platform.machine())
    return [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, *([march] if march else [])]


def _compiler_version() -> str:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    try:
        done = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(_NO_COMPILER.format(compiler[0])) from error
    return done.stdout
