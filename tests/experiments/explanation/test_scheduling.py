"""What is said of a scheduler whose order is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegym.envs.scenario import Scenario
from servegym.envs.scenario.compose import compose_scenario
from servegym.envs.sim.llm.decision_view import IS_WAITING, LEGAL, PROMPT_TOKENS, ROW_COLUMNS
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, VISIBLE
from servegym.experiments.explanation.decisions import Decisions, scheduling_decisions
from servegym.experiments.explanation.engine_picture import draw_engine
from servegym.experiments.explanation.orders import ORDERS, admissions, order_agreements
from servegym.experiments.explanation.picture import busiest_minute
from servegym.experiments.explanation.sensitivity import sensitivities
from tests.experiments.commands import FEW_REQUESTS


class ShortestPromptFirst:
    """Admits the shortest prompt that fits, else starts with the whole budget."""

    def scores(self, observation: Any) -> Any:
        rows = observation["requests"][:, :VISIBLE]
        scores = np.full((len(rows), NUM_CHOICES), -1e9, np.float32)
        legal = (rows[..., IS_WAITING] > 0) & (rows[..., LEGAL] > 0)
        scores[:, :VISIBLE] = np.where(legal, 1e6 - rows[..., PROMPT_TOKENS], -1e9)
        scores[:, -1] = 0.0
        return scores


@pytest.fixture(scope="module")
def decisions() -> Decisions:
    busy = ("scenario.workload.rate_rps=40", "scenario.engine.max_num_seqs=16")
    scenario = Scenario(compose_scenario("generated_1xh100", (*FEW_REQUESTS, *busy)))
    return scheduling_decisions(ShortestPromptFirst(), scenario, [scenario.traffic.test_workload(0)])


def test_decisions_are_legal_and_in_order(decisions: Decisions) -> None:
    assert decisions.legal[np.arange(len(decisions.actions)), decisions.actions].all()
    assert (np.diff(decisions.time_s) >= 0).all()
    assert (decisions.actions >= NUM_ROWS).any() and len(admissions(decisions).actions) > 20


def test_it_agrees_with_its_own_order_most(decisions: Decisions) -> None:
    found = order_agreements(decisions)
    assert {each.rule for each in found} == set(ORDERS)
    assert (found[0].rule, found[0].share) == ("shortest prompt first", 1.0)
    assert found[0].by_chance < 0.7 and found[-1].share < 1.0


def test_it_looks_at_prompts(decisions: Decisions) -> None:
    rng = np.random.default_rng(0)
    found = sensitivities(ShortestPromptFirst(), admissions(decisions), {"requests": ROW_COLUMNS}, None, rng)
    assert found[0].changed > 0.3
    read = {"prompt_tokens", "is_waiting", "legal"}
    assert {each.feature for each in found if each.changed > 0} <= read
    assert {"prompt_tokens"} <= {each.feature for each in found if each.changed > 0}


def test_the_picture_is_drawn(decisions: Decisions, tmp_path: Path) -> None:
    draw_engine(decisions.at(busiest_minute(decisions)), "toy", tmp_path / "engine.png")
    assert (tmp_path / "engine.png").read_bytes().startswith(b"\x89PNG")
