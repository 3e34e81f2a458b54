"""The committed presets are what the measured tables give."""

import json

import numpy as np

from servegym.costmodels.iterations.presets import compiled_folder, preset_names, read_preset
from servegym.experiments.fits.compile_presets import DATA, compile_presets, main


def test_committed_presets_are_what_the_tables_give(real_data) -> None:
    made = list(compile_presets(real_data(DATA)))
    assert sorted(each.name for each in made) == preset_names()
    for name, cost, provenance in made:
        assert json.loads((compiled_folder() / f"{name}.json").read_text()) == provenance
        for field, value in read_preset(compiled_folder(), name)._asdict().items():
            # An atom of time: a difference of equal launches leaves a rounding error.
            assert np.allclose(value, getattr(cost, field), rtol=1e-6, atol=1e-15), (name, field)


def test_a_folder_without_tables_is_refused(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main([str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "no table of system h100_sxm" in capsys.readouterr().err
    assert not out.exists()
