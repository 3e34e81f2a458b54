"""`servegym profile` on the CPU, from the command line to the tables it leaves."""

import json
from pathlib import Path

import pytest

from servegym.costmodels import specs
from servegym.costmodels.kernels.profiles import read_profile
from servegym.costmodels.specs import ModelSpec
from tests.experiments.commands import answer_of, error_of

SMALL = (
    "device=cpu",
    "models=[tiny]",
    "tensor_parallel=[1,2]",
    "operators=[gemm,prefill_attention,decode_attention,normalisation,activation,sampling,prefill_layer,"
    "decode_layer]",
    "grid.tokens=[1,4]",
    "grid.sequences=[1,2]",
    "grid.prefill_batch=[1]",
    "grid.prefill_tokens=[5]",
    "grid.prefill_history=[0,3]",
    "grid.decode_history=[7]",
    "timing.warmups=0",
    "timing.repeats=1",
    "timing.calls=2",
)


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setattr(specs, "MODELS", {"tiny": ModelSpec("tiny", 2, 32, 4, 2, 8, 48, 100)})


def test_profile_writes_tables_of_the_schema(capsys, folder):
    answer = answer_of(capsys, "profile", *SMALL, "out=measured")
    timings = read_profile("measured")
    assert [(table["operator"], table["timings"]) for table in answer["tables"]] == [
        (each.operator, len(each)) for each in timings
    ]
    assert {each.operator: len(each) for each in timings} == {
        "gemm": 18,  # 2 x (4 projections and an LM head), whole and half, of which one pair is alike
        "prefill_attention": 4,
        "decode_attention": 4,
        "normalisation": 2,
        "activation": 4,
        "sampling": 2,
        "prefill_layer": 4,
        "decode_layer": 4,
    }
    assert {(each.device, each.dtype) for each in timings} == {("cpu", "bf16")}
    assert all(each.software.startswith("torch ") and each.includes for each in timings)
    assert {each.variant for each in timings if each.operator.endswith("layer")} == {"tiny"}
    provenance = json.loads(Path("measured/profile.json").read_text())["provenance"]
    assert provenance["config"]["grid"]["tokens"] == [1, 4]
    assert provenance["versions"]["torch"] and provenance["cpu"] and provenance["out_of_memory"] == []


def test_profile_shows_a_table(capsys, folder):
    from servegym.experiments.cli import main

    assert main(["profile", *SMALL, "operators=[normalisation]", "out=measured"]) == 0
    assert "normalisation" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word, message",
    [
        ("device=tpu", "device = tpu: must be cuda or cpu"),
        ("operators=[conv]", "operators = ['conv']: must be one or more of gemm"),
        ("models=[gpt_5]", "unknown model 'gpt_5'"),
        ("models=[]", "models and tensor_parallel"),
        ("tensor_parallel=[3]", "tensor_parallel = 3: must divide"),
        ("dtype=fp64", "dtype = fp64: must be bf16 or fp16"),
        ("gpus=[1]", "gpus = [1]: each must be at least 2"),
        ("grid.tokens=[]", "grid.tokens = []"),
        ("timing.calls=0", "timing.calls = 0"),
        ("operators=[all_reduce] gpus=[]", "nothing was measured"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, folder, word, message):
    assert message in error_of(capsys, "profile", *SMALL, "out=measured", *word.split())


def test_what_is_no_profile_is_not_replaced(capsys, folder):
    Path("notes").mkdir()
    Path("notes/todo.txt").write_text("keep me")
    assert "exists and holds something else (todo.txt)" in error_of(
        capsys, "profile", *SMALL, "operators=[sampling]", "out=notes"
    )


def test_cuda_is_refused_where_there_is_none(capsys, folder, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no CUDA device" in error_of(capsys, "profile", *SMALL, "device=cuda", "out=measured")
