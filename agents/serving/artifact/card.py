"""The card of an exported policy: `policy.json` as a page to read."""

from collections.abc import Iterator
from typing import Any

LICENCE = "Apache-2.0, as servegym itself"


def card(name: str, description: dict[str, Any]) -> str:
    """Markdown. name: of the policy in commands, `zoo:NAME` or a folder. description: what policy.json holds.

    Of its `provenance`: what the run directory says of the training; `suite`, if it was trained on one, with
    name, version, trained_on and test_only (entries); `evaluation`, if there is one, with what (a sentence),
    command, table (rows of words, the header first) and limits (sentences).
    """
    provenance = description["provenance"]
    sections = {
        "Use": _use(name),
        "Training": _training(provenance),
        "Results": _results(provenance.get("evaluation")),
        "Limits": [f"- {sentence}" for sentence in _limits(description)],
        "Licence": [f"{LICENCE}."],
    }
    lines = [f"# {name}", "", _summary(description)]
    for title, section in sections.items():
        lines += ["", f"## {title}", *section]
    return "\n".join(lines) + "\n"


def table(rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, the header first."""
    header, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [header, f"|{' --- |' * len(rows[0])}", *body]


def _summary(description: dict[str, Any]) -> str:
    fleet = description["num_replicas"]
    size = "a fleet of any size" if fleet is None else f"a fleet of {fleet} replicas"
    if description["level"] == "scheduler":
        size = "any engine"
    network = description["provenance"].get("network", "not recorded")
    schema = f"schema version {description['schema_version']}"
    return (
        f"Decides {description['decision']}, of {size}. Network: {network}. Inputs: `policy.json`, {schema}."
    )


def _use(name: str) -> list[str]:
    return ["```", f"servegym evaluate policy={name}", "```"]


def _training(provenance: dict[str, Any]) -> list[str]:
    source = provenance.get("workload_source")
    rows = {
        "command": f"`{provenance['command']}`" if provenance.get("command") else "",
        "on": _trained_on(provenance) + (f" ({source})" if source else ""),
        "seed": str(provenance.get("seed", "")),
        "cost": _cost(provenance),
        "commit": provenance.get("git_commit") or "",
        "packages": ", ".join(f"{key} {value}" for key, value in provenance.get("versions", {}).items()),
    }
    return table([["", ""], *([key, value] for key, value in rows.items() if value)])


def _trained_on(provenance: dict[str, Any]) -> str:
    suite = provenance.get("suite")
    if suite is None:
        return str(provenance.get("scenario", "traffic that is not recorded"))
    return f"suite {suite['name']}, version {suite['version']}: {', '.join(suite['trained_on'])}"


def _cost(provenance: dict[str, Any]) -> str:
    if "steps" not in provenance:
        return ""
    parts = [f"{provenance['steps']:,} decisions"]
    if "processor_s" in provenance:
        parts.append(f"{provenance['processor_s']:,.0f} s of processor time")
    if "elapsed_s" in provenance:
        parts.append(f"{provenance['elapsed_s']:,.0f} s")
    return f"{', '.join(parts)}, on {provenance.get('cpu', 'an unknown processor')}"


def _results(evaluation: dict[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["Not evaluated yet."]
    command = ["Reproduced by", "```", evaluation["command"], "```"]
    return [evaluation["what"], "", *table(evaluation["table"]), "", *command]


def _limits(description: dict[str, Any]) -> Iterator[str]:
    provenance = description["provenance"]
    yield f"Trained on {_trained_on(provenance)}; nothing is known of other traffic but what stands above."
    suite = provenance.get("suite")
    if suite is not None and suite["test_only"]:
        yield f"Not trained on {', '.join(suite['test_only'])}, which the suite keeps for testing."
    held_out = provenance.get("held_out") or []
    parts = held_out if isinstance(held_out, list) else [held_out]
    unseen = (f"Never saw the last {part['test_s']:,.0f} s of {part['trace']}." for part in parts)
    yield from dict.fromkeys(unseen)
    yield from (provenance.get("evaluation") or {}).get("limits", [])
