"""The environment in which a group of tests meets a real serving system: made if it is missing.

    python tests/serving/environment.py GROUP

prints the environment's python, and to standard error what it does meanwhile. An environment holds exactly
what GROUP/requirements.txt pins; nothing is resolved, for some of these systems ask for GPU packages that are
never loaded here. It lies outside the clone under the hash of those pins: made once for all clones, and anew
when they change. A half-made one is made again, and who comes second waits for the first.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servegym"
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
"""Where builds of torch for the CPU are; the only package that is looked for there."""


def environment(group: str) -> Path:
    """The python of the environment of `group`, which is made first if it is missing."""
    pins = read_pins(Path(__file__).with_name(group) / "requirements.txt")
    version = "{}.{}".format(*sys.version_info)
    digest = hashlib.sha256("\n".join([version, *pins]).encode()).hexdigest()[:12]
    folder = CACHE / f"{group}-{digest}"
    python = folder / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((folder / "installed").exists() and python.exists()):
            make(folder, pins)
    return python


def read_pins(requirements: Path) -> list[str]:
    """The lines of a requirements file without comments. Exits with a message where one is no exact pin."""
    if not requirements.exists():
        groups = sorted(each.parent.name for each in requirements.parent.parent.glob("*/requirements.txt"))
        sys.exit(f"no group '{requirements.parent.name}'; there are {', '.join(groups)}")
    lines = [line.partition("#")[0].strip() for line in requirements.read_text().splitlines()]
    pins = [line for line in lines if line]
    if loose := [pin for pin in pins if "==" not in pin]:
        sys.exit(f"{requirements}: no exact version (name==version): {', '.join(loose)}")
    return pins


def make(folder: Path, pins: list[str]) -> None:
    """Makes the environment; the file `installed` appears when it is complete."""
    print(f"Installing {len(pins)} packages into {folder}", file=sys.stderr)
    # What is there may be half-made: --clear. `installed` goes first, in case this is ended meanwhile.
    (folder / "installed").unlink(missing_ok=True)
    run(sys.executable, "-m", "venv", "--clear", folder)
    torch = [pin for pin in pins if pin.startswith("torch==")]
    if torch:
        install(folder, torch, "--retries", "1", "--timeout", "30", "--extra-index-url", TORCH_INDEX)
    install(folder, [pin for pin in pins if pin not in torch])
    (folder / "installed").touch()


def install(folder: Path, pins: list[str], *options: str) -> None:
    """Installs exactly `pins`. They are kept only here, and compiled when they are first imported."""
    pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-cache-dir", "--no-compile", *options, *pins)


def run(*command: str | Path) -> None:
    """Runs a command that writes to standard error only. Exits as it did if it fails."""
    code = subprocess.run(command, stdout=sys.stderr.fileno()).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    print(environment(sys.argv[1]))
