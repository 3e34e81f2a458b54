"""The claims: named once, shown in docs/claims.md as they are in the code, and the cheapest measured."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from servegym.experiments.claims.claim import Claim, check, worst
from servegym.experiments.claims.papers import PAPERS
from servegym.experiments.claims.report import published

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "claims.md"
CLAIMS = {f"{name}.{claim.name}": claim for name, paper in PAPERS.items() for claim in paper.claims}
CHEAPEST = ("sal.ttft", "sal.overload", "intelligent_router.classical_routers", "mooncake.cache_aware")


def verdicts_of_page() -> dict[str, str]:
    """The summary table: claims and their verdicts."""
    return dict(re.findall(r"^\| \[(\S+)\]\(#\S+\) \| (.+) \|$", PAGE.read_text(), flags=re.MULTILINE))


def test_papers_are_named_after_their_files() -> None:
    for name, paper in PAPERS.items():
        assert (ROOT / "experiments" / "claims" / f"{name}.py").is_file()
        assert paper.system and paper.source and paper.claims


def test_names_are_unique() -> None:
    assert len(CLAIMS) == sum(len(paper.claims) for paper in PAPERS.values())
    for claim in CLAIMS.values():
        names = [figure.name for figure in claim.figures]
        assert names and len(set(names)) == len(names)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_a_published_figure_has_an_effect(claim: Claim) -> None:
    for figure in claim.figures:
        no_effect = {"ratio": 1.0, "change": 0.0}.get(figure.kind)
        if no_effect is not None:
            assert (figure.low - no_effect) * (figure.high - no_effect) > 0
        assert figure.factor >= 1


def test_the_page_shows_every_claim_as_it_is_in_the_code() -> None:
    assert list(verdicts_of_page()) == list(CLAIMS)
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(CLAIMS)
    for name, claim in CLAIMS.items():
        assert sections[name].startswith(f"{claim.statement}\n\nMeasured on: {claim.workload}\n")
        rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (.+) \|$", sections[name], re.MULTILINE)[2:]
        shown = [(row[0], row[1]) for row in rows]
        assert shown == [(figure.name, published(vars(figure))) for figure in claim.figures]
        assert (f"Remark: {claim.remark}" in sections[name]) == bool(claim.remark)


def test_what_does_not_reproduce_has_a_remark() -> None:
    for name, verdict in verdicts_of_page().items():
        assert verdict == "reproduced" or CLAIMS[name].remark, name


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("name", CHEAPEST)
def test_measured_again_the_cheapest_have_the_verdict_of_the_page(
    name: str, real_data: Callable[[str], Path]
) -> None:
    for path in CLAIMS[name].data:
        real_data(path)
    assert worst([finding.verdict for finding in check(CLAIMS[name])]) == verdicts_of_page()[name]
