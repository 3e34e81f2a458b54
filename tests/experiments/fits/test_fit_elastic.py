"""The committed coefficients are those of the command."""

import json

import pytest

from servegym.costmodels.elastic.presets import elastic_folder
from servegym.experiments.fits.fit_elastic import main


def test_files_are_what_the_command_makes(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 0
    assert "lwm_7b-a800_sxm tp 2 sp  4 near" in capsys.readouterr().out
    kept = {each.name: json.loads(each.read_text()) for each in elastic_folder().iterdir()}
    made = {each.name: json.loads(each.read_text()) for each in tmp_path.iterdir()}
    assert made.keys() == kept.keys()
    for name, preset in made.items():
        rows, kept_rows = preset.pop("prefill"), kept[name].pop("prefill")
        assert preset == kept[name]
        for row, kept_row in zip(rows, kept_rows, strict=True):
            for error in ("error", "error_between"):
                assert row.pop(error) == pytest.approx(kept_row.pop(error), abs=2e-4)
            assert row == pytest.approx(kept_row, rel=1e-4)
