"""The committed profile against the clients that it was fitted to, where they are there."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from servegym.experiments.fits import fit_day_profile

CLIENTS = "traces/servegen/language_m-large_day0-6.tar.gz"


def test_the_committed_profile_is_what_the_command_gives(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "day.json"
    assert fit_day_profile.main([str(real_data(CLIENTS)), "--day", "6", "--out", str(out)]) == 0
    committed = resources.files("servegym.envs.workloads") / "profiles" / "servegen_m_large_day.json"
    assert out.read_bytes() == committed.read_bytes()


def test_rates_of_the_clients_add_up_within_the_day(tmp_path: Path) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text("86400,2,1,Gamma,1,1\n87000,1,1,Gamma,1,1\n")
    (tmp_path / "chunk-1-trace.csv").write_text("0,50,1,Gamma,1,1\n87000,3,1,Weibull,1,1\n")
    text = fit_day_profile.fit(tmp_path, 1)
    assert '"factors": [48.0, 96.0, 0.0, ' in text  # 2 and 4 requests/s in two of 144 windows


@pytest.mark.parametrize("words, said", [(["--day", "3"], "no client at work"), (["--day", "-1"], "--day")])
def test_bad_input_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text("0,2,1,Gamma,1,1\n")
    assert fit_day_profile.main([str(tmp_path), *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
