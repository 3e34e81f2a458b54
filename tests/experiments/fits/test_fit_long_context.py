"""The fit on made-up data sets, whose tokens are words."""

import json

import numpy as np
import pytest

from servegym.envs.workloads.lengths import QUANTILE_LEVELS
from servegym.experiments.fits import fit_long_context


def words(texts, begin):
    return [len(text.split()) + begin for text in texts]


def conversations(*lengths):
    """Each turn of so many words."""
    return json.dumps(
        [
            {"id": str(i), "conversations": [{"value": "w " * n} for n in turns]}
            for i, turns in enumerate(lengths)
        ]
    )


def task(folder, name, documents):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "input": "w " * words,
            "instructions": ["q q"] * len(answers),
            "outputs": ["a " * n for n in answers],
        }
        for words, answers in documents
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))


@pytest.fixture
def l_eval(tmp_path):
    task(tmp_path / "LEval-data/Open-ended-tasks", "natural_question", [(3000, [5, 7]), (4000, [9])])
    for name in ("scientific_qa", "multidoc_qa"):
        task(tmp_path / "LEval-data/Open-ended-tasks", name, [(5000, [20])])
    for name, number in (("codeU", 90), ("narrative_qa", 182)):
        folder = tmp_path / f"Predictions/{name}/turbo-16k-0613"
        folder.mkdir(parents=True)
        (folder / f"{name}.pred.jsonl").write_text("\n".join([json.dumps({"gt": "a a a"})] * number))
    return tmp_path


def test_a_conversation_gives_first_turns_and_the_next_one():
    turns = [10, 20, 30, 40]
    pairs = fit_long_context.share_gpt(conversations(*[turns] * 200), words)
    # with the token that begins a text; every cut occurs, and nothing else does
    assert set(pairs) == {(11, 21), (31, 31), (61, 41)}


def test_short_conversations_and_long_outputs_are_left_out():
    assert fit_long_context.share_gpt(conversations([10, 20]), words) == []
    assert fit_long_context.share_gpt(conversations([10, 1000, 1000]), words) == []
    assert fit_long_context.share_gpt(conversations([1, 1, 1]), words) == []


def test_a_file_that_is_cut_off_gives_its_whole_conversations():
    text = conversations([10, 20, 30], [10, 20, 30])
    assert len(fit_long_context.share_gpt(text[:-5], words)) == 1


def test_l_eval_asks_every_question_with_its_document(l_eval):
    tasks = fit_long_context.l_eval(l_eval, words)
    assert tasks["natural_question"] == [(3002, 5), (3002, 7), (4002, 9)]


def test_prompts_of_missing_tasks_have_the_published_moments(l_eval):
    tasks = fit_long_context.l_eval(l_eval, words)
    for name, (_, mean, longest) in (
        ("codeU", fit_long_context.CODE_U),
        ("narrative_qa", fit_long_context.NARRATIVE_QA),
    ):
        prompts = np.array([prompt for prompt, _ in tasks[name]])
        assert prompts.max() == longest
        assert prompts.mean() == pytest.approx(mean, rel=0.01)
        assert {output for _, output in tasks[name]} == {3}
    assert len(tasks["codeU"]) == 90 and len(tasks["narrative_qa"]) == 182


def test_the_figures_are_quantiles_of_each_data_set(l_eval):
    text = conversations(*[[10, 20, 30, 40]] * 64)
    figures = json.loads(fit_long_context.fit(text, l_eval, words))
    assert set(figures) == {"sharegpt", "l_eval", "lv_eval"}
    assert figures["sharegpt"]["num_requests"] == 64
    assert figures["l_eval"]["num_requests"] == 5 + 90 + 182
    lv_eval = figures["lv_eval"]
    assert lv_eval["levels"] == QUANTILE_LEVELS.tolist()
    prompts = np.array(lv_eval["prompt_quantiles"])
    assert prompts.shape == (5, len(QUANTILE_LEVELS))
    assert prompts.min() == 15_100 and prompts.max() == 497_300
    assert (np.diff(prompts, axis=1) > 0).all()
    assert fit_long_context.fit(text, l_eval, words) == fit_long_context.fit(text, l_eval, words)


def test_bad_input_ends_the_command_with_one_line_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--l-eval", str(tmp_path), "--tokenizer", str(tmp_path / "none.json"), "--out", str(out)]
    assert fit_long_context.main(["--sharegpt", str(tmp_path / "none"), *arguments]) == 2
    (tmp_path / "some.json").write_text("[]")
    assert fit_long_context.main(["--sharegpt", str(tmp_path / "some.json"), *arguments]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("--sharegpt ") and second.startswith("--tokenizer")
    assert not out.exists()


def test_l_eval_without_a_task_and_its_answers_is_refused(tmp_path):
    with pytest.raises(fit_long_context.InputError, match="has no codeU.jsonl and no predictions of it"):
        fit_long_context.l_eval(tmp_path, words)
