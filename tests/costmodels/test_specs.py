import dataclasses
import subprocess
import sys

import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import GPUS, MODELS, gpu_spec, model_spec


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # safetensors metadata of the published checkpoints
        ("llama_3_1_8b", 8_030_261_248),
        ("llama_2_7b", 6_738_415_616),
        ("llama_3_1_70b", 70_553_706_496),
        ("mistral_7b", 7_241_732_096),
        ("yi_34b", 34_388_917_248),
        ("mixtral_8x7b", 46_702_792_704),
    ],
)
def test_parameter_counts_are_those_of_the_checkpoints(name, parameters):
    assert MODELS[name].parameter_count == parameters
    assert MODELS[name].weight_bytes == 2 * parameters


def test_kv_bytes_by_hand():
    # 32 layers, keys and values, 8 heads of 128, 2 bytes
    assert MODELS["llama_3_1_8b"].kv_bytes_per_token == 128 * 1024
    assert MODELS["llama_2_7b"].kv_bytes_per_token == 512 * 1024
    assert MODELS["llama_3_1_70b"].kv_bytes_per_token == 320 * 1024


def test_presets_are_found_by_name():
    for name, gpu in GPUS.items():
        assert gpu_spec(name) is gpu
        assert gpu.name == name
    for name, model in MODELS.items():
        assert model_spec(name) is model
        assert model.name == name


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match="b200.*h100_sxm, a100_sxm"):
        gpu_spec("b200")
    with pytest.raises(InputError, match="gpt.*llama_3_1_8b, llama_2_7b, llama_3_1_70b"):
        model_spec("gpt")


def test_gpu_without_the_dtype_is_refused():
    assert GPUS["h100_sxm"].peak("fp8") == 2 * GPUS["h100_sxm"].peak("bfloat16")
    with pytest.raises(InputError, match="a100_sxm.*'fp8'.*bfloat16"):
        GPUS["a100_sxm"].peak("fp8")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_layers", 0, "num_layers is 0"),
        ("num_kv_heads", 5, "num_kv_heads is 5"),
        ("dtype", "int3", "dtype 'int3'"),
        ("experts_per_token", 2, "experts_per_token is 2, must be at most num_experts 1"),
    ],
)
def test_impossible_models_are_refused(field, value, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(MODELS["llama_3_1_8b"], **{field: value})


def test_import_leaves_torch_alone():
    code = "import sys, servegym.costmodels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
