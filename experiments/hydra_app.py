"""Runs one command under Hydra, and turns its answer into JSON or into text for a person.

Command NAME is the file NAME.py beside this one, which holds the function NAME (takes the composed
configuration, returns a JSON object), its schema NAMEConfig, and `show`, which prints such an
object for a person. The configuration is conf/NAME.yaml. With scenarios of another kind it may be another
file, as OF_KIND says.
"""

import contextlib
import importlib
import json
import math
import os
import sys
from typing import Any

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.scenario.compose import CONFIG_MODULE, list_group, register_scenario_schema, scenario_kind
from servegym.envs.scenario.config import ScenarioConfig
from servegym.experiments.config_errors import explain

SUBJECTS = {"bench": "what", "data": "what", "replay": "run", "validate": "what"}
"""Commands that name what they are about in a word of its own, and its key."""

OF_KIND: dict[tuple[str, type], str] = {
    ("simulate", BatchScenarioConfig): "simulate_batches",
    ("simulate", ElasticScenarioConfig): "simulate_elastic",
    ("goodput", ElasticScenarioConfig): "goodput_elastic",
}
"""Files of commands that do something else with a scenario of this kind."""

POLICY_GROUPS = {
    "goodput": ("batch_scheduler", False),
    "simulate_batches": ("batch_scheduler", True),
    "simulate_elastic": ("elastic_system", True),
    "goodput_elastic": ("elastic_system", True),
}
"""Commands whose `policy` may be a file of a group, and whether it has to be one."""


def run_hydra_command(name: str, words: list[str], as_json: bool) -> int:
    """Runs command `name` with Hydra's overrides and flags; returns the exit code.

    Bad input is said in one line on standard error. Any other exception of the command passes through.
    """
    if as_json and {"-m", "--multirun"} & set(words):
        return _refuse("--json is for one job, -m for many; their results are in their folders")
    name = OF_KIND.get((name, _kind(words)), name)
    words = _as_overrides(name, words)
    module = importlib.import_module(f"servegym.experiments.{name}")
    register_scenario_schema()
    ConfigStore.instance().store(name=f"{name}_schema", node=getattr(module, _schema_name(name)))
    failure: list[Exception] = []

    # Hydra prints what a job raises in its own way, so the job raises nothing.
    def job(config: DictConfig) -> None:
        if failure:  # of an earlier job of this multirun
            return
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer = getattr(module, name)(config)
        except Exception as error:
            failure.append(error)
            return
        if as_json:
            print(to_json(answer))
        else:
            module.show(answer)

    try:
        _call_hydra(name, words, job)
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explain(error))
    except SystemExit as stop:  # Hydra's flags end so, with 0 unless they are misspelt
        return stop.code if isinstance(stop.code, int) else 2
    if failure:
        if not isinstance(failure[0], InputError):
            raise failure[0]
        return _refuse(str(failure[0]))
    return 0


def _schema_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_")) + "Config"


def _kind(words: list[str]) -> type:
    """The schema of the scenario chosen, the first of several; that of LLM fleets where none is known."""
    chosen = [word.partition("=")[2].split(",")[0] for word in words if word.startswith("scenario=")]
    known = chosen and chosen[-1] in list_group("scenario")
    return scenario_kind(chosen[-1])[0] if known else ScenarioConfig


def _as_overrides(name: str, words: list[str]) -> list[str]:
    """Words in Hydra's form: `bench env` is `what=env`, `replay RUN --perfetto FILE` has `perfetto=FILE`."""
    if name in SUBJECTS and words and "=" not in words[0] and words[0][:1] not in ("-", "+", "~"):
        words = [f"{SUBJECTS[name]}={words[0]}", *words[1:]]
    if name == "replay" and "--perfetto" in words[:-1]:
        at = words.index("--perfetto")
        words = [*words[:at], f"perfetto={words[at + 1]}", *words[at + 2 :]]
    if name in POLICY_GROUPS:
        words = [_as_choice(word, *POLICY_GROUPS[name]) for word in words]
    return words


def policies_for(name: str, words: list[str]) -> list[str]:
    """What `policy` may be in command `name` on the scenario among its words, as far as a group has them."""
    command = OF_KIND.get((name, _kind(words)), name)
    return list_group(POLICY_GROUPS[command][0]) if command in POLICY_GROUPS else []


def _as_choice(word: str, group: str, always: bool) -> str:
    """`policy=symphony` chooses that file of its group, so that `policy.condition=eager` can change it."""
    key, _, choice = word.partition("=")
    known = list_group(group)
    is_one = always or all(name in known for name in choice.split(","))
    return f"{group}@{word}" if key == "policy" and is_one else word


def to_json(answer: Any) -> str:
    """One line of strict JSON: NumPy's numbers as plain ones, null for what is not finite."""
    return json.dumps(_plain(answer), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _call_hydra(name: str, words: list[str], job: Any) -> None:
    """`hydra.main` as if it had been started as a program of its own; its exceptions reach us."""
    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["servegym", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=name, version_base="1.3")(job)()
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _refuse(message: str) -> int:
    print(f"servegym: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
