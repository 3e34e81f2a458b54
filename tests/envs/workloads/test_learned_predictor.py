"""The NumPy side of a length predictor: masking, the map to tokens, its file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import LearnedPredictor, Workload
from servegym.envs.workloads.learned_predictor import PREDICTOR_FILE, FeatureScale
from servegym.envs.workloads.length_features import FEATURES


def prompt_predictor(weight=1.0, **more):
    """Scores a request by its standardised log prompt."""
    num = len(FEATURES)
    used = np.array([name == "log_prompt" for name in FEATURES])
    weights = np.zeros((1, 2 * num))
    weights[0, FEATURES.index("log_prompt")] = weight
    return LearnedPredictor(
        FeatureScale(np.zeros(num), np.ones(num), used),
        ((weights, np.zeros(1)),),
        knots=np.array([1.0, 3.0]),
        log_lengths=np.log([10.0, 1000.0]),
        loss="l1",
        **more,
    )


def workload(prompts, **columns):
    return Workload("made up", np.arange(len(prompts)), prompts, np.ones(len(prompts), int), **columns)


def test_scores_map_to_lengths_between_the_knots_and_stay_beyond():
    prompts = np.rint(np.expm1([0.7, 1.1, 2.0, 2.5, 3.0, 4.0])).astype(int)
    guess = prompt_predictor().predict(workload(prompts))
    expected = 10 * 10 ** np.clip(np.log1p(prompts) - 1, 0, 2)
    assert guess.dtype == np.int32
    np.testing.assert_array_equal(guess, np.rint(expected))
    assert guess[0] == 10 and guess[-1] == 1000


def test_features_that_training_never_saw_change_nothing():
    with_priority = workload([5, 9, 9], priority=[0, 5, 9])
    predictor = prompt_predictor()
    assert predictor.predict(with_priority).tolist() == predictor.predict(workload([5, 9, 9])).tolist()


def test_inputs_are_standardised_clipped_and_masked():
    features = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [5.0, 4.0, np.nan]])
    scale = FeatureScale.fit(features)
    assert scale.used.tolist() == [True, True, False]
    new = scale.inputs(np.array([[3.0, np.nan, 7.0], [1e9, 4.0, np.nan]]))
    np.testing.assert_allclose(new, [[0, 0, 0, 1, 0, 0], [5, 0, 0, 1, 1, 0]])
    np.testing.assert_allclose(scale.inputs(features)[:, 0].std(), 1)


def test_the_file_gives_the_predictor_back(tmp_path):
    predictor = prompt_predictor(0.7, trained_on={"trace": "t.csv", "test_s": 60.0})
    with (tmp_path / PREDICTOR_FILE).open("wb") as file:
        predictor.write(file)
    requests = workload(np.arange(1, 300))
    for path in (tmp_path, tmp_path / PREDICTOR_FILE):
        again = LearnedPredictor.load(path)
        assert again.predict(requests).tolist() == predictor.predict(requests).tolist()
        assert again.trained_on == predictor.trained_on and again.loss == "l1"


def test_files_that_are_none_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"{PREDICTOR_FILE}: no such predictor of output lengths"):
        LearnedPredictor.load(tmp_path)
    broken = tmp_path / "broken.npz"
    for content in (b"", b"words", b"PK\x03\x04 cut off"):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"broken.npz: is no predictor of output lengths"):
            LearnedPredictor.load(broken)
    np.savez(broken, mean=np.zeros(3))
    with pytest.raises(InputError, match=r"broken.npz: is no predictor of output lengths \(lacks 'about'\)"):
        LearnedPredictor.load(broken)


def test_a_predictor_of_other_features_is_refused(tmp_path: Path, monkeypatch):
    with (tmp_path / PREDICTOR_FILE).open("wb") as file:
        prompt_predictor().write(file)
    monkeypatch.setattr("servegym.envs.workloads.learned_predictor.FEATURES", (*FEATURES[1:], "mood"))
    with pytest.raises(InputError, match="other features, which differ in log_prompt, mood; must"):
        LearnedPredictor.load(tmp_path)


def test_truth_has_no_influence():
    requests = workload([5, 50, 500])
    longer = replace(requests, output_tokens=[9, 99, 999])
    assert prompt_predictor().predict(requests).tolist() == prompt_predictor().predict(longer).tolist()
