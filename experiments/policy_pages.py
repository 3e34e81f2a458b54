"""Writes the pages of published policies, `python -m servegym.experiments.policy_pages docs/policies`.

A page is made of the docstring of the policy's module (the rule), what `published` keeps of it (source,
evidence, complexity), the signature of the function that makes it (parameters, defaults, ranges), and the
claims of its paper.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from servegym.agents.batch_schedulers import AUTOSCALERS, BATCH_SCHEDULERS
from servegym.agents.elastic_managers import MANAGERS
from servegym.agents.heuristics import REBALANCERS, ROUTERS
from servegym.agents.parameters import allowed_of
from servegym.agents.published import publication_of
from servegym.agents.schedulers import SCHEDULERS
from servegym.costmodels.output_folder import output_folder
from servegym.envs.sim.llm.needs import NEEDS
from servegym.experiments.claims.papers import PAPERS, POLICIES
from servegym.experiments.config_errors import KEYS
from servegym.experiments.configs import FROM_BATCH_SCENARIO, FROM_SCENARIO

FAMILIES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "router": ROUTERS,
    "rebalancer": REBALANCERS,
    "scheduler": SCHEDULERS,
    "batch_scheduler": BATCH_SCHEDULERS,
    "autoscaler": AUTOSCALERS,
    "elastic_manager": MANAGERS,
}
"""What makes each policy, by family and by name."""

INDEX = "README.md"

INTRODUCTION = """# Published policies

Written by `python -m servegym.experiments.policy_pages docs/policies`. What comes of them in comparison with
their papers is in [claims.md](../claims.md)."""


def pages() -> dict[str, str]:
    """By file name, the index and the page of every policy."""
    made = {
        f"{name}.md": _page(family, name, make)
        for family, policies in FAMILIES.items()
        for name, make in policies.items()
    }
    return {INDEX: _index(), **made}


def _page(family: str, name: str, make: Callable[..., Any]) -> str:
    publication = publication_of(make)
    module = inspect.getmodule(inspect.unwrap(make))
    assert module is not None and module.__doc__ is not None
    facts = [
        ("Source", publication.source),
        ("Evidence", publication.evidence.value),
        ("Work of a decision", publication.complexity),
        ("Needs", "nothing" if family == "autoscaler" else _needs(make)),
        ("Code", f"`{module.__name__.removeprefix('servegym.').replace('.', '/')}.py`"),
        ("Use", f"`{KEYS.get(family, family)}={name}`"),
    ]
    parts = [
        f"# {family.capitalize().replace('_', ' ')}: {name}",
        module.__doc__.strip(),
        "| | |\n| --- | --- |\n" + "\n".join(f"| {key} | {value} |" for key, value in facts),
        "## Parameters",
        _parameters(make),
        "## Figures of its paper",
        _figures(name),
    ]
    return "\n\n".join(parts) + "\n"


def _needs(make: Callable[..., Any]) -> str:
    needs = getattr(make(), "needs", ())
    return "; ".join(f"{what} (`{key}`)" for need, (what, key) in NEEDS.items() if need in needs) or "nothing"


def _parameters(make: Callable[..., Any]) -> str:
    parameters = inspect.signature(make).parameters
    if not parameters:
        return "None."
    hints, ranges = get_type_hints(make), allowed_of(make)
    rows = []
    for name, parameter in parameters.items():
        if name in {*FROM_SCENARIO, *FROM_BATCH_SCENARIO}:
            rows.append(f"| `{name}` | | the scenario's | |")
            continue
        allowed = ranges[name].text if name in ranges else ""
        rows.append(f"| `{name}` | {_type(hints[name])} | {parameter.default} | {allowed} |")
    table = "| name | type | default | allowed |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    return f"{table}\n\n{inspect.getdoc(make)}"


def _figures(name: str) -> str:
    rows = [
        f"- [{paper}.{claim.name}](../claims.md#{paper}{claim.name}): {claim.statement}"
        for paper, checked in POLICIES.items()
        if name in checked
        for claim in PAPERS[paper].claims
    ]
    if not rows:
        return "None are checked: its source gives none that a simulation could repeat."
    return "What comes of each, `servegym evaluate suite=claims` measures:\n\n" + "\n".join(rows)


def _type(hint: Any) -> str:
    inner = get_args(hint)
    return f"list of {inner[0].__name__}" if inner else hint.__name__


def _index() -> str:
    rows = []
    for family, policies in FAMILIES.items():
        for name, make in policies.items():
            publication = publication_of(make)
            known = f"{publication.source} | {publication.evidence.value}"
            rows.append(f"| [{name}]({name}.md) | {family} | {known} |")
    table = "| name | family | source | evidence |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    return f"{INTRODUCTION}\n\n{table}\n"


if __name__ == "__main__":
    written = pages()
    with output_folder(Path(sys.argv[1]), tuple(written)) as folder:
        for file, text in written.items():
            (folder / file).write_text(text)
