"""Says in one line what Hydra and OmegaConf say in several: which key, which value, what is allowed."""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from servegym.envs.scenario.compose import SCENARIO_SCHEMAS, list_group, list_scenarios

TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
"""How a person calls OmegaConf's types."""

NOISE = (
    "Config search path",
    "provider=",
    "See https",
    "full_key",
    "object_type",
    "reference_type",
    "To append",
)
"""Starts of lines that help nobody at the console."""

KEYS = {"batch_scheduler": "policy", "elastic_manager": "policy", "elastic_system": "policy"}
"""Groups whose choice is made by another key."""

GROUPS = ("scenario", "agent", "router")


def explain(error: Exception) -> str:
    """One line for a person; the error may come from composing a configuration or from reading it."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = [option for option in error.options if not option.endswith("schema")]
        return _unknown_choice(KEYS.get(group, group), choice, options)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as KEY=VALUE ({_lines(error.message)[-1]})"
    kinds = re.search(
        r"In 'scenario/.*Invalid type assigned: (\w+) is not a subclass of (\w+)", str(error), re.S
    )
    if kinds:
        return _other_kind(*kinds.groups())
    nothing = re.match(r"Could not override '(.+)'\. No match in the defaults list", str(error))
    if nothing:
        return f"{nothing[1]}: must not be chosen here, this command has none"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        overridden = re.match(r"Could not override '(.+)'\.", str(error))
        said = _unknown_key(str(cause.full_key), cause.parent_node)
        in_list = overridden is not None and not str(cause.full_key).startswith(overridden[1].split(".")[0])
        return f"{overridden[1]}: {said}" if overridden and in_list else said
    if isinstance(cause, ValidationError):
        wanted = re.search(r"(?:could not be converted to|is not a valid) (\w+)", str(cause))
        said = f"must be {TYPES[wanted[1]]}" if wanted and wanted[1] in TYPES else _lines(str(cause))[0]
        if cause.value is None and "not Optional" in said:
            said = "must have a value"
        return f"{cause.full_key} = {'null' if cause.value is None else cause.value}: {said}"
    if isinstance(cause, MissingMandatoryValue) and cause.full_key:
        return no_value([str(cause.full_key)])
    return " ".join(_lines(str(cause)))


def no_value(keys: list[str]) -> str:
    """That keys have no value, or that choices of whole groups have not been made."""
    choices = [key for key in keys if key in GROUPS]
    if choices:
        return "; ".join(
            f"{key}: no choice made; must be one of {', '.join(list_group(key))}" for key in choices
        )
    return f"no value for {', '.join(keys)}"


def _unknown_choice(key: str, choice: str, known: list[str]) -> str:
    """That `choice` is none of the known ones, and which of them was meant."""
    near = get_close_matches(choice, known, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{key} = {choice}: must be one of {', '.join(known)}{meant}"


def _other_kind(chosen: str, wanted: str) -> str:
    """That a scenario of one schema has been chosen where another is wanted: names of their classes."""
    kinds = {schema.__name__: (schema, words) for schema, words in SCENARIO_SCHEMAS.values()}
    schema, words = kinds[wanted]
    known = ", ".join(list_scenarios(schema))
    return f"scenario: is {kinds[chosen][1]}; this command takes those {words}: {known}"


def _unknown_key(key: str, siblings: DictConfig) -> str:
    prefix, _, name = key.rpartition(".")
    known = [str(each) for each in siblings if each != "hydra"]
    root = siblings._get_root()
    elsewhere = [path for path in _paths(root) if path.rpartition(".")[2] == name]
    near = elsewhere or [".".join(filter(None, (prefix, each))) for each in get_close_matches(name, known, 1)]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{key}: no such key; {meant}{prefix or 'The configuration'} has {', '.join(known)}"


def _lines(message: str) -> list[str]:
    """The lines that say something."""
    lines = [line.strip() for line in message.splitlines()]
    return [line for line in lines if line and not line.startswith(NOISE)]


def _paths(node: object, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all keys below a node, but for Hydra's own."""
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none() or node._is_interpolation():
        return
    for key in map(str, node):
        if not prefix and key == "hydra":
            continue
        yield f"{prefix}{key}"
        yield from _paths(node._get_node(key), f"{prefix}{key}.")
