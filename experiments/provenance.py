"""Where a result comes from: code, packages, machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("gymnasium", "numba", "numpy", "sb3-contrib", "stable-baselines3", "torch", "torch-geometric")


def versions() -> dict[str, str]:
    """Versions of servegym, of Python and of the packages that results depend on."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "servegym": importlib.metadata.version("servegym"),
        "python": platform.python_version(),
        **packages,
    }


def provenance() -> dict[str, Any]:
    """Versions, machine and, in a git checkout of servegym, its commit and whether files were changed."""
    hardware = {"cpu": _cpu(), "cpu_cores": os.cpu_count(), "memory_gib": _memory_gib(), "gpus": _gpus()}
    return {"versions": versions(), "platform": platform.platform(), **hardware, **_commit()}


def code_diff() -> str:
    """What of servegym's checkout is not committed: a patch, and the names of new files; empty elsewhere."""
    if not _is_checkout():
        return ""
    status = _git("status", "--porcelain") or ""
    new = [f"# new file: {line[3:]}\n" for line in status.splitlines() if line.startswith("??")]
    return "".join(new) + (_git("diff", "HEAD") or "")


def installed_packages() -> str:
    """Every package of the environment with its version, one a line, as constraints for pip."""
    found = {f"{each.metadata['Name']}=={each.version}" for each in importlib.metadata.distributions()}
    return "".join(f"{line}\n" for line in sorted(found, key=str.lower))


def _commit() -> dict[str, Any]:
    if not _is_checkout():  # installed, perhaps inside somebody else's checkout
        return {"git_commit": None, "git_dirty": None}
    commit = (_git("rev-parse", "HEAD") or "").strip()
    return {"git_commit": commit, "git_dirty": bool((_git("status", "--porcelain") or "").strip())}


def _is_checkout() -> bool:
    return _git("ls-files", "--error-unmatch", Path(__file__).name) is not None


def _git(*words: str) -> str | None:
    """What git says about the checkout that this file is in; None where it has nothing to say."""
    folder = Path(__file__).resolve().parent
    top = folder if words[0] == "ls-files" else folder.parent
    try:
        done = subprocess.run(["git", *words], cwd=top, capture_output=True, text=True, errors="replace")
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    """Names of the CUDA devices, as the driver lists them."""
    try:
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
