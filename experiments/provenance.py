"""Where a result comes from: code, packages, machine."""

import importlib.metadata
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
    """Versions, processor and, in a git checkout of servegym, its commit and whether files were changed."""
    return {"versions": versions(), "platform": platform.platform(), "cpu": _cpu(), **_git()}


def _git() -> dict[str, Any]:
    here = Path(__file__).resolve()

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return {"git_commit": None, "git_dirty": None}  # installed, perhaps inside somebody else's checkout
    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
