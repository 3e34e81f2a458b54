"""The pages in docs/policies are those of the code."""

from pathlib import Path

from servegym.experiments.claims.papers import PAPERS, POLICIES
from servegym.experiments.config_errors import KEYS
from servegym.experiments.policy_pages import FAMILIES, pages

FOLDER = Path(__file__).parents[2] / "docs" / "policies"


def test_the_committed_pages_are_current() -> None:
    written = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert written == pages(), "run: python -m servegym.experiments.policy_pages docs/policies"


def test_each_policy_has_a_page_that_says_what_it_must() -> None:
    made = pages()
    for family, policies in FAMILIES.items():
        for name in policies:
            page = made[f"{name}.md"]
            assert f"`{KEYS.get(family, family)}={name}`" in page
            for part in (
                "| Source |",
                "| Evidence |",
                "| Work of a decision | O(",
                "| Needs |",
                "## Parameters",
            ):
                assert part in page
            assert f"[{name}]({name}.md)" in made["README.md"]


def test_papers_put_policies_to_the_test_that_exist() -> None:
    names = {name for policies in FAMILIES.values() for name in policies}
    for paper, checked in POLICIES.items():
        assert paper in PAPERS
        assert set(checked) <= names
