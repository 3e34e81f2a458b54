"""The card of an exported policy: `policy.json` as a page to read."""

from collections.abc import Iterator
from typing import Any

LICENCE = "Apache-2.0, as servegym itself"


def card(name: str, description: dict[str, Any]) -> str:
    """Markdown. name: of the policy in commands, `zoo:NAME` or a folder. description: what policy.json holds.

    Of its `provenance`: what the run directory says of the training; `evaluation`, if there, has `command`,
    `table` (rows of words, the header first) and `limits` (sentences).
    """
    lines = [f"# {name}", "", _summary(description), ""]
    for title, section in (
        ("Use", _use(name)),
        ("Training", _training(description["provenance"])),
        ("Results", _results(description["provenance"].get("evaluation"))),
        ("Limits", _limits(description)),
        ("Licence", iter([LICENCE + "."])),
    ):
        lines += [f"## {title}", *section, ""]
    return "\n".join(lines[:-1]) + "\n"


def table(rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, the header first."""
    header, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [header, f"|{' --- |' * len(rows[0])}", *body]


def _summary(description: dict[str, Any]) -> str:
    fleet = description["num_replicas"]
    size = "a fleet of any size" if fleet is None else f"a fleet of {fleet} replicas"
    if description["level"] == "scheduler":
        size = "any engine"
    return (
        f"Decides {description['decision']}, of {size}. "
        f"Network {description['provenance'].get('network', '?')}; observations of schema version {description['schema_version']} (`policy.json`)."
    )


def _use(name: str) -> Iterator[str]:
    yield "```"
    yield f"servegym evaluate policy={name}"
    yield "```"


def _training(provenance: dict[str, Any]) -> Iterator[str]:
    seconds = provenance.get("processor_s")
    what = "s of processor time"
    if seconds is None:
        seconds, what = provenance.get("elapsed_s"), "s"
    cost = f"{provenance['steps']:,} decisions" if "steps" in provenance else "unknown"
    if seconds is not None:
        cost += f" in {seconds:,.0f} {what} on {provenance.get('cpu', 'an unknown processor')}"
    versions = provenance.get("versions", {})
    rows = [
        ["", ""],
        ["on", f"{provenance.get('scenario', 'unknown')} ({provenance.get('workload_source', 'unknown')})"],
        ["seed", str(provenance.get("seed", "unknown"))],
        ["cost", cost],
        ["code", f"servegym {provenance['servegym']}, commit {provenance.get('git_commit') or 'unknown'}"],
        ["packages", ", ".join(f"{key} {value}" for key, value in versions.items() if key != "servegym")],
    ]
    if provenance.get("command"):
        rows.insert(1, ["command", f"`{provenance['command']}`"])
    yield from table([row for row in rows if row[1] or not row[0]])


def _results(evaluation: dict[str, Any] | None) -> Iterator[str]:
    if evaluation is None:
        yield "Not evaluated."
        return
    yield evaluation["what"]
    yield ""
    yield from table(evaluation["table"])
    yield ""
    yield "Reproduced by"
    yield "```"
    yield evaluation["command"]
    yield "```"


def _limits(description: dict[str, Any]) -> Iterator[str]:
    provenance = description["provenance"]
    yield f"- Trained on {provenance.get('scenario', 'unknown traffic')} only, and tried on nothing but the above."
    if provenance.get("held_out"):
        held_out = provenance["held_out"]
        yield f"- Never saw the last {held_out['test_s']:,.0f} s of {held_out['trace']}."
    for sentence in (provenance.get("evaluation") or {}).get("limits", []):
        yield f"- {sentence}"
