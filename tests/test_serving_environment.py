"""The environments of tests/serving: pinned exactly, made once, and again where one is incomplete."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SERVING = Path(__file__).with_name("serving")
PROGRAM = SERVING / "environment.py"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """With a cache of its own, and one package, `tiny`, to install without a network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "import sys\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            "tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    return {**os.environ, **offline, "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of environment.py beside two groups."""
    copy = Path(shutil.copy(PROGRAM, tmp_path))
    for group, pins in {"good": "# A comment.\ntiny==1.0  # Another.\n", "loose": "tiny>=1.0\n"}.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "requirements.txt").write_text(pins)
    return copy


def start(program: Path, group: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, program, group], env=environ, text=True, **pipes)


@pytest.mark.slow  # seconds, most of which Python takes to make environments
def test_two_at_once_make_one_and_a_half_made_one_is_made_again(
    program: Path, environ: dict[str, str]
) -> None:
    both = [start(program, "good", environ) for _ in range(2)]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    (python,) = {output for output, _ in printed}
    assert sorted("Installing" in said for _, said in printed) == [False, True]
    use = [python.strip(), "-c", "import tiny; print(tiny.sys.prefix)"]
    folder = Path(python.strip()).parent.parent
    assert subprocess.check_output(use, text=True).strip() == str(folder)

    (folder / "installed").unlink()  # as if it had been interrupted
    (folder / "rest").touch()
    again = start(program, "good", environ)
    assert again.communicate()[0] == python
    assert not (folder / "rest").exists()
    assert subprocess.check_output(use, text=True).strip() == str(folder)


@pytest.mark.parametrize(
    "group, message",
    [("loose", "no exact version (name==version): tiny>=1.0"), ("none", "there are good, loose")],
)
def test_bad_groups_are_refused(group: str, message: str, program: Path, environ: dict[str, str]) -> None:
    process = start(program, group, environ)
    _, said = process.communicate()
    assert process.returncode != 0
    assert message in said


@pytest.mark.parametrize(
    "requirements", sorted(SERVING.glob("*/requirements.txt")), ids=lambda path: path.parent.name
)
def test_every_environment_is_pinned_exactly_and_can_run_tests(requirements: Path) -> None:
    pins = [line.split("==") for line in requirements.read_text().splitlines() if not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins)
    names = [name.lower().replace("_", "-") for name, _ in pins]
    assert len(set(names)) == len(names)
    assert {"pytest", "numpy"} <= set(names)
