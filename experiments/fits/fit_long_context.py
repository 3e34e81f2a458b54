r"""Fit `envs/workloads/long_context.json`: lengths of the data sets that LoongServe was measured on.

    python -m servegym.experiments.fits.fit_long_context --sharegpt FILE --l-eval FOLDER \
        --tokenizer FILE --out FILE

ShareGPT: `ShareGPT_V3_unfiltered_cleaned_split.json`, whole or its beginning (the committed figures are of
the first 17,671 conversations). L-Eval: a clone of OpenLMLab/LEval. Tokenizer: `tokenizer.json` of Llama 2,
as LWM has it; needs the package `tokenizers`. Prompts and outputs are made of them as LoongServe's artifact
does (`4-preprocess-dataset.py`); their lengths are reduced to quantiles. The same files give the same figures
to the byte. LV-Eval is not read: see `_lv_eval`.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import output_file
from servegym.envs.workloads.lengths import QUANTILE_LEVELS, JointLengths

NUM_BINS = 32
Pairs = list[tuple[int, int]]  # tokens of prompt and output
Count = Callable[[list[str], bool], list[int]]  # tokens of texts, with the token that begins them or without

FEWEST_TOKENS, MOST_OUTPUT = 4, 1000
"""ShareGPT: shorter prompts and outputs, and outputs of so many, are left out (the script's defaults)."""

NOT_IN_GIT = ("codeU", "narrative_qa")
"""Files of L-Eval that may be missing from a mirror, as they are large."""
CODE_U = (90, 31_575, 36_309)
"""Requests of CodeU, their mean and longest prompt (L-Eval, arXiv 2307.11088, table of statistics)."""
NARRATIVE_QA = (20, 62_335, 210_541)
"""Documents of NarrativeQA, mean and longest (ibid.); the longest is what LoongServe says of L-Eval."""
QA_TASKS = ("narrative_qa", "natural_question", "scientific_qa", "multidoc_qa")

LEVELS = (16_000, 32_000, 64_000, 128_000, 256_000)
"""Words of LV-Eval's five length levels, which have equally many requests (arXiv 2402.05136)."""
FEWEST_WORDS, MEAN_WORDS, MOST_WORDS = 11_896, 102_380, 387_406
"""Of LV-Eval's contexts (its README)."""
FEWEST_PROMPT, MOST_PROMPT = 15_100, 497_300
"""Tokens of LV-Eval's prompts (LoongServe, section 7.1): 1.27 and 1.28 for a word."""
MOST_ANSWER = 64
"""Tokens that LV-Eval lets models answer with (`DATASET_MAXGEN` of its config.py)."""


def share_gpt(text: str, count: Count) -> Pairs:
    """Of each conversation of three turns or more: its first turns, a random number of them, and the next."""
    rng = random.Random(0)  # as the script: the same turns
    prompts, outputs = [], []
    for turns in _conversations(text):
        if len(turns) > 2:
            last = rng.randint(1, len(turns) - 1)
            prompts.append("\n".join(turns[:last]))
            outputs.append(turns[last])
    return [
        (prompt, output)
        for prompt, output in zip(count(prompts, True), count(outputs, True), strict=True)
        if prompt >= FEWEST_TOKENS and FEWEST_TOKENS <= output < MOST_OUTPUT
    ]


def _conversations(text: str) -> Iterator[list[str]]:
    """Turns of each conversation; an array that is cut off gives those that are whole."""
    decoder, at = json.JSONDecoder(), text.find("[") + 1
    while True:
        begin = re.compile(r"[\s,]*").match(text, at)
        assert begin is not None
        try:
            entry, at = decoder.raw_decode(text, begin.end())
        except json.JSONDecodeError:
            return
        yield [turn["value"] for turn in entry["conversations"]]


def l_eval(folder: Path, count: Count) -> dict[str, Pairs]:
    """Requests of each task. Prompts of the two that may not be at hand follow published statistics.

    Our reading of these: CodeU's prompts are spread evenly around their mean up to the longest; NarrativeQA's
    documents are log-normal, with the published mean and longest. Outputs are the answers in `Predictions`.
    """
    tasks = {}
    for path in sorted((folder / "LEval-data").glob("*-tasks/*.jsonl")):
        tasks[path.stem] = [pair for entry in _lines(path) for pair in _questions(entry, count)]
    for name in NOT_IN_GIT:
        if name not in tasks:
            found = sorted(folder.glob(f"Predictions/*/turbo-16k-0613/{name}.pred.jsonl"))
            if not found:
                raise InputError(f"--l-eval {folder}: has no {name}.jsonl and no predictions of it")
            answers = count([entry["gt"] for entry in _lines(found[0])], False)
            prompts = _code_u() if name == "codeU" else _narrative_qa(len(answers))
            tasks[name] = list(zip(prompts, answers, strict=True))
    return tasks


def _questions(entry: dict[str, Any], count: Count) -> Iterator[tuple[int, int]]:
    (document,) = count([entry["input"]], False)
    questions, answers = (count(entry[key], False) for key in ("instructions", "outputs"))
    for question, answer in zip(questions, answers, strict=True):
        yield document + question, max(1, answer)


def _code_u() -> list[int]:
    requests, mean, longest = CODE_U
    return [round(each) for each in np.linspace(2 * mean - longest, longest, requests)]


def _narrative_qa(questions: int) -> list[int]:
    """The i-th of m documents is the (i - 1/2) / m quantile; questions are spread evenly over documents."""
    documents, mean, longest = NARRATIVE_QA
    normal = [NormalDist().inv_cdf((i + 0.5) / documents) for i in range(documents)]
    low, high = 0.0, 5.0  # of sigma: the mean falls with it, as the longest stays
    for _ in range(60):
        sigma = (low + high) / 2
        tokens = longest * np.exp(sigma * (np.array(normal) - normal[-1]))
        low, high = (sigma, high) if tokens.mean() > mean else (low, sigma)
    return [round(tokens[i * documents // questions]) for i in range(questions)]


def _lv_eval(answers: list[int]) -> JointLengths:
    """One bin a level. Our reading, as the data are not at hand.

    Words over nominal words are triangular in every level: the least and the most are those of the shortest
    and the longest context, the mean over all levels is the published one. Tokens are linear in words,
    through the published shortest and longest. `answers`: those of questions about documents in L-Eval.
    """
    least, most = FEWEST_WORDS / LEVELS[0], MOST_WORDS / LEVELS[-1]
    mode = 3 * MEAN_WORDS / float(np.mean(LEVELS)) - least - most
    rising = (mode - least) / (most - least)
    factor = np.where(
        rising >= QUANTILE_LEVELS,
        least + np.sqrt(QUANTILE_LEVELS * (most - least) * (mode - least)),
        most - np.sqrt((1 - QUANTILE_LEVELS) * (most - least) * (most - mode)),
    )
    per_word = (MOST_PROMPT - FEWEST_PROMPT) / (MOST_WORDS - FEWEST_WORDS)
    prompts = FEWEST_PROMPT + per_word * (np.outer(LEVELS, factor) - FEWEST_WORDS)
    outputs = np.quantile(np.minimum(answers, MOST_ANSWER), QUANTILE_LEVELS, method="inverted_cdf")
    return JointLengths(
        QUANTILE_LEVELS,
        np.rint(prompts).astype(np.int32),
        np.tile(outputs.astype(np.int32), (len(LEVELS), 1)),
    )


def fit(share_gpt_text: str, l_eval_folder: Path, count: Count) -> str:
    """The JSON text. Raises `InputError` for a file that is not there."""
    conversations = share_gpt(share_gpt_text, count)
    tasks = l_eval(l_eval_folder, count)
    requests = [pair for pairs in tasks.values() for pair in pairs]
    answers = [output for name in QA_TASKS for _, output in tasks[name]]
    figures = {
        "sharegpt": _figures(
            _joint(conversations),
            "ShareGPT_V3_unfiltered_cleaned_split.json, its first conversations, cut into prompts and "
            "outputs as LoongServe's artifact does",
            conversations,
        ),
        "l_eval": _figures(
            _joint(requests),
            "OpenLMLab/LEval (An et al., ACL 2024, GPL-3.0), every instruction with its document; prompts of "
            "CodeU and NarrativeQA from the statistics of the paper",
            requests,
        ),
        "lv_eval": _figures(
            _lv_eval(answers),
            "Statistics published of LV-Eval (arXiv 2402.05136) and by LoongServe; answers as of L-Eval's "
            "questions about documents, at most 64 tokens",
        ),
    }
    text = json.dumps(figures, indent=1)
    return re.sub(r"\[[^\[\]]*\]", lambda row: "".join(row[0].split()).replace(",", ", "), text) + "\n"


def _joint(pairs: Pairs) -> JointLengths:
    prompts, outputs = np.array(pairs).T
    return JointLengths.fit(prompts, outputs, NUM_BINS)


def _figures(lengths: JointLengths, source: str, pairs: Pairs | None = None) -> dict[str, Any]:
    measured = {}
    if pairs:
        prompt, output = np.mean(pairs, axis=0)
        measured = {
            "num_requests": len(pairs),
            "mean_prompt_tokens": round(prompt, 1),
            "mean_output_tokens": round(output, 1),
        }
    return {
        "source": source,
        **measured,
        "levels": lengths.levels.tolist(),
        "prompt_quantiles": lengths.prompt_quantiles.tolist(),
        "output_quantiles": lengths.output_quantiles.tolist(),
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)


def _counter(path: Path) -> Count:
    """Counts with the tokenizer of a file, many texts at once."""
    try:
        tokenizer = import_module("tokenizers").Tokenizer.from_file(str(path))
    except ImportError:
        raise InputError("--tokenizer: needs the package tokenizers (pip install tokenizers)") from None
    except Exception as error:  # the package has no class of its own for these
        raise InputError(f"--tokenizer {path}: cannot be read ({error})") from None
    return lambda texts, begin: [
        len(encoded.ids) for encoded in tokenizer.encode_batch(texts, add_special_tokens=begin)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Fit the lengths of LoongServe's data sets.")
    parser.add_argument("--sharegpt", type=Path, required=True, help="JSON of conversations")
    parser.add_argument("--l-eval", type=Path, required=True, help="clone of OpenLMLab/LEval")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of Llama 2")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        try:
            conversations = options.sharegpt.read_text(encoding="utf-8", errors="ignore")
        except OSError as error:
            raise InputError(f"--sharegpt {options.sharegpt}: cannot be read ({error.strerror})") from None
        text = fit(conversations, options.l_eval, _counter(options.tokenizer))
        with output_file(options.out) as file:
            file.write(text.encode())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
