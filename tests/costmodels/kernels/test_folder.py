import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.folder import read_folder
from servegym.costmodels.kernels.profiles import write_profile
from tests.costmodels.kernels.test_aiconfigurator import GEMM
from tests.costmodels.kernels.test_aiconfigurator import write as write_parquet
from tests.costmodels.kernels.test_llmservingsim import write_profile as write_layer_profile
from tests.costmodels.kernels.test_profiles import timings
from tests.costmodels.kernels.test_vidur import mlp
from tests.costmodels.kernels.test_vidur import write as write_text


def test_our_own_profile(tmp_path):
    write_profile(tmp_path / "p", [timings("rotary")], {})
    [read] = read_folder(tmp_path / "p")
    assert (read.operator, read.device) == ("rotary", "cpu")


def test_all_systems_or_one_of_aiconfigurator(tmp_path):
    write_parquet(tmp_path, "gemm", "vllm", "1", "gemm_perf", GEMM, system="h100_sxm")
    write_parquet(tmp_path, "gemm", "vllm", "1", "gemm_perf", GEMM, system="l40s")
    assert {each.device for each in read_folder(tmp_path)} == {"h100_sxm", "l40s"}
    assert {each.device for each in read_folder(tmp_path / "l40s")} == {"l40s"}


def test_all_degrees_of_a_layer_profile(tmp_path):
    write_layer_profile(tmp_path, 1)
    write_layer_profile(tmp_path, 2)
    mixed = [each for each in read_folder(tmp_path) if each.operator == "mixed_attention"]
    assert [each.shapes["heads"][0] for each in mixed] == [32, 16]


def test_vidur_at_any_depth(tmp_path):
    write_text(tmp_path / "compute/a100/meta/x/mlp.csv", mlp("1,1,8,8,True,1,1,1,1,1,1,1,1,1,1,1"))
    assert {each.device for each in read_folder(tmp_path)} == {"a100_sxm"}


def test_an_unknown_layout_is_refused_with_the_known_ones(tmp_path):
    write_text(tmp_path / "timings.csv", "a\n1\n")
    known = r"profile.json.*LLMServingSim.*aiconfigurator.*Vidur"
    with pytest.raises(InputError, match=rf"no known layout; must be one of: .*{known}"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match=rf"absent: must be a folder in one of these layouts: .*{known}"):
        read_folder(tmp_path / "absent")


@pytest.mark.parametrize(
    "name, rows",
    [
        ("aiconfigurator", 229_369 + 22_704),
        ("vidur", 109_728),
        ("frontier", 10_972),
        ("llmservingsim/profiler/perf/RTXPRO6000/meta-llama/Llama-3.1-8B/bf16", 20_812),
    ],
)
def test_the_published_folders(real_data, name, rows):
    assert sum(len(each) for each in read_folder(real_data(f"kernels/{name}"))) == rows
