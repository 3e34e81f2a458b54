"""`servegym predictor`: trained on one part of a trace, measured on the other, read by a scenario."""

import json
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.compose import compose_scenario
from servegym.envs.workloads import LearnedPredictor
from tests.experiments.commands import answer_of, error_of

LEARN = (
    "predictor",
    "scenario=generated_8xh100",
    "scenario.workload.trace=trace.csv",
    "scenario.workload.format=csv",
    "scenario.workload.fitted=null",
    "scenario.workload.test_s=100",
    "scenario.workload.keep=1.0",
    "scenario.episode.requests=32",
    "epochs=15",
    "out=runs/learned",
)


def write_trace() -> None:
    """600 requests, one a second: long prompts have outputs of about 400 tokens, short ones of about 40."""
    rng = np.random.default_rng(0)
    long = rng.integers(0, 2, 600)
    prompts = np.where(long, 2000, 100) + rng.integers(0, 50, 600)
    outputs = np.where(long, 400, 40) + rng.integers(-20, 20, 600)
    rows = [f"{i},{prompts[i]},{outputs[i]}" for i in range(600)]
    Path("trace.csv").write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]))


def test_it_is_measured_on_what_it_has_not_seen_and_fills_the_predictions(capsys, folder):
    write_trace()
    answer = answer_of(capsys, *LEARN)
    assert answer["held_out"] == {"trace": "trace.csv", "test_s": 100.0}
    assert (answer["num_training_requests"], answer["num_test_requests"]) == (499, 101)
    rows = {row["predictor"]: row for row in answer["test"]}
    assert list(rows) == ["median", "prompt only", "learned"]
    assert rows["median"]["kendall_tau"] == 0
    for name in ("prompt only", "learned"):
        assert rows[name]["mae_tokens"] < 25 < 100 < rows["median"]["mae_tokens"]
    report = json.loads(Path("runs/learned/report.json").read_text())
    assert report["test"] == answer["test"] and "versions" in report["provenance"]
    assert sorted(path.name for path in Path("runs").glob("*")) == ["learned"]

    settings = (
        *(word for word in LEARN if word.startswith(("scenario.workload", "scenario.episode"))),
        "scenario.workload.predictor=learned",
        "+scenario.workload.predictor_parameters.path=runs/learned",
    )
    scenario = Scenario(compose_scenario("generated_8xh100", settings))
    workload = scenario.traffic.test_workload(0)
    expected = LearnedPredictor.load("runs/learned").predict(workload)
    assert workload.predicted_output_tokens is not None
    assert workload.predicted_output_tokens.tolist() == expected.tolist()
    long = workload.prompt_tokens > 1000
    assert workload.predicted_output_tokens[long].min() > 300
    assert workload.predicted_output_tokens[~long].max() < 100
    episode = scenario.traffic.train_workload(np.random.SeedSequence(0).spawn(1)[0])
    assert episode.predicted_output_tokens is not None

    with pytest.raises(
        InputError, match="but the last 100 s of trace.csv, must not have seen the last 200 s"
    ):
        Scenario(compose_scenario("generated_8xh100", (*settings, "scenario.workload.test_s=200")))


@pytest.mark.parametrize(
    "words, said",
    [
        (("loss=hinge",), "loss = hinge: must be one of l1, mse, listmle"),
        (("epochs=0",), "epochs = 0: must be at least 1"),
        (("scenario.workload.test_s=590",), "training part of 9 requests: must be at least 320"),
        (("out=kept",), "out = kept: exists and holds something else (mine)"),
        (
            ("scenario.workload.predictor=learned",),
            "must be given path, which learned needs",
        ),
        (
            (
                "scenario.workload.predictor=learned",
                "+scenario.workload.predictor_parameters.path=runs/none",
            ),
            "runs/none: no such predictor of output lengths; must be what servegym predictor wrote",
        ),
    ],
)
def test_bad_input_is_said_in_one_line(capsys, folder, words, said):
    write_trace()
    Path("kept").mkdir()
    Path("kept/mine").write_text("")
    assert said in error_of(capsys, *LEARN, *words)
