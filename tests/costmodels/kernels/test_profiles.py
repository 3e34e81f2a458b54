import json

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.profiles import read_manifest, read_profile, write_profile
from servegym.costmodels.kernels.schema import OPERATORS, KernelTimings


def timings(operator="gemm", rows=5, seed=0, **changed):
    random = np.random.default_rng(seed)
    shapes = {name: random.integers(0, 2**40, rows) for name in OPERATORS[operator]}
    given = {"device": "cpu", "software": "torch 2.6", "includes": "graph replays"} | changed
    return KernelTimings(operator, shapes, random.uniform(1e-9, 10, rows), **given)


def test_what_is_written_is_read_to_the_bit(tmp_path):
    written = [
        timings(),
        timings("sampling", seed=1),
        timings(seed=2, dtype="fp8", kv_dtype="fp8", variant="graph", includes="with quantisation"),
    ]
    write_profile(tmp_path / "a" / "b", written, {"driver": "570"})
    read = read_profile(tmp_path / "a" / "b")
    assert read_manifest(tmp_path / "a" / "b")["provenance"] == {"driver": "570"}
    assert len(read) == 3
    for before, after in zip(written, read, strict=True):
        for name in ("operator", "device", "software", "dtype", "kv_dtype", "variant", "includes"):
            assert getattr(before, name) == getattr(after, name)
        assert np.array_equal(before.seconds, after.seconds)
        assert {n: v.tolist() for n, v in before.shapes.items()} == {
            n: v.tolist() for n, v in after.shapes.items()
        }
    assert read[2].rows.tolist() == [6, 7, 8, 9, 10]  # after the five of bf16 in the same file


def test_an_earlier_profile_is_replaced_whole(tmp_path):
    write_profile(tmp_path / "p", [timings(), timings("sampling")], {})
    write_profile(tmp_path / "p", [timings("rotary")], {})
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["profile.json", "rotary.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_failure_leaves_the_earlier_profile(tmp_path):
    write_profile(tmp_path / "p", [timings()], {})
    with pytest.raises(TypeError):
        write_profile(tmp_path / "p", [timings(seed=1)], {"not JSON": object()})
    with pytest.raises(InputError, match=r"must not hold commas"):
        write_profile(tmp_path / "p", [timings(variant="a,b")], {})
    assert np.array_equal(read_profile(tmp_path / "p")[0].seconds, timings().seconds)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_what_is_no_profile_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds something else \(precious.txt\)"):
        write_profile(tmp_path, [timings()], {})
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "written, said",
    [
        ([], r"timings of 0 devices"),
        ([timings(), timings("sampling", device="other")], r"timings of 2 devices"),
        ([timings(), timings(seed=1)], r"gemm, bf16, bf16,  stands twice"),
    ],
)
def test_what_a_profile_cannot_hold_is_refused(tmp_path, written, said):
    with pytest.raises(InputError, match=said):
        write_profile(tmp_path / "p", written, {})
    assert not (tmp_path / "p").exists()


def test_damaged_profiles_are_refused(tmp_path):
    folder = tmp_path / "p"
    with pytest.raises(InputError, match=r"profile.json: not the manifest of a profile"):
        read_profile(folder)
    write_profile(folder, [timings()], {})
    table, manifest = folder / "gemm.csv", folder / "profile.json"
    lines, text = table.read_text().splitlines(), manifest.read_text()

    table.write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match=r"gemm.csv: 4 rows of dtype 'bf16'.*profile.json says 5"):
        read_profile(folder)
    table.write_text("\n".join([*lines[:3], lines[3].rsplit(",", 1)[0] + ",-1.0", *lines[4:]]))
    with pytest.raises(InputError, match=r"gemm.csv, row 3: seconds is -1"):
        read_profile(folder)
    table.unlink()
    with pytest.raises(InputError, match=r"gemm.csv: cannot be read"):
        read_profile(folder)

    for key in ("format", "device", "tables"):
        manifest.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != key}))
        with pytest.raises(InputError, match=r"profile.json: not the manifest"):
            read_profile(folder)
    manifest.write_text(text.replace('"gemm"', '"weather"'))
    with pytest.raises(InputError, match=r"profile.json: not the manifest"):
        read_profile(folder)
