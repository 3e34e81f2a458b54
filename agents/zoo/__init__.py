"""Trained policies that come with the package, a folder each: an exported policy and its card."""

from pathlib import Path

from servegym.costmodels.errors import InputError

ZOO = Path(__file__).parent

PREFIX = "zoo:"
"""What a name begins with that stands for a policy of the zoo, wherever a policy is named."""


def zoo_policies() -> list[str]:
    """The names of all, without the prefix."""
    return sorted(path.parent.name for path in ZOO.glob("*/policy.json"))


def policy_folder(name: str) -> Path:
    """The folder that a policy's name means: `zoo:NAME` one of the zoo, any other a path.

    InputError for a policy that the zoo does not have, listing those it has.
    """
    if not name.startswith(PREFIX):
        return Path(name)
    known = zoo_policies()
    if name.removeprefix(PREFIX) not in known:
        raise InputError(f"{name}: must be one of {', '.join(PREFIX + each for each in known) or 'none yet'}")
    return ZOO / name.removeprefix(PREFIX)
