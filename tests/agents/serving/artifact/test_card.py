"""The card says where a policy comes from, what it is worth, and where that ends."""

from typing import Any

from servegym.agents.serving.artifact.card import card, table

DESCRIPTION: dict[str, Any] = {
    "schema_version": 3,
    "level": "router",
    "decision": "which replica gets a request",
    "num_replicas": None,
    "provenance": {
        "servegym": "0.1.0",
        "scenario": "routing",
        "network": "gnn",
        "seed": 4,
        "steps": 2_000_000,
        "elapsed_s": 700.0,
        "processor_s": 1200.0,
        "cpu": "a processor",
        "command": "servegym train suite=routing seed=4",
        "suite": {"name": "routing", "version": 2, "trained_on": ["a", "b"], "test_only": ["c"]},
        "held_out": [{"trace": "trace.csv", "test_s": 1200.0}],
        "evaluation": {
            "what": "On suite routing.",
            "command": "servegym evaluate suite=routing policy=zoo:best",
            "table": [["scenario", "score"], ["a", "0.9"]],
            "limits": ["On c it is 5 % worse than jsq."],
        },
    },
}


def test_a_card_says_all_that_is_known() -> None:
    text = card("zoo:best", DESCRIPTION)
    assert text.startswith("# zoo:best\n\nDecides which replica gets a request, of a fleet of any size.")
    for said in (
        "`servegym train suite=routing seed=4`",
        "suite routing, version 2: a, b",
        "2,000,000 decisions, 1,200 s of processor time, 700 s, on a processor",
        "| a | 0.9 |",
        "```\nservegym evaluate suite=routing policy=zoo:best\n```",
        "- Not trained on c, which the suite keeps for testing.",
        "- Never saw the last 1,200 s of trace.csv.",
        "- On c it is 5 % worse than jsq.",
        "Apache-2.0",
    ):
        assert said in text


def test_a_card_does_not_invent() -> None:
    text = card("out", DESCRIPTION | {"num_replicas": 4, "provenance": {"servegym": "0.1.0"}})
    assert "a fleet of 4 replicas" in text and "Not evaluated yet." in text
    assert "seed" not in text and "None" not in text


def test_tables_are_markdown() -> None:
    assert table([["a", "b"], ["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
