"""What clients ask: shares as configured, one stream for each column, nothing where nothing is asked."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.clients import with_clients
from servegym.envs.scenario.config import ClientsConfig, SloClassConfig
from servegym.envs.workloads import Workload

COUNT = 20_000
PLAIN = Workload("many", np.arange(COUNT) * 0.1, np.full(COUNT, 100), np.full(COUNT, 10))


def drawn(seed: int = 0, **settings) -> Workload:
    return with_clients(PLAIN, ClientsConfig(**settings), np.random.SeedSequence(seed))


def test_nothing_asked_nothing_changed() -> None:
    assert drawn() is PLAIN


def test_patience_is_exponential() -> None:
    patience_s = drawn(cancel_share=0.25, mean_patience_s=8.0).cancel_after_s
    limited = np.isfinite(patience_s)
    assert limited.mean() == pytest.approx(0.25, abs=0.01)
    assert patience_s[limited].mean() == pytest.approx(8.0, rel=0.05)
    assert np.std(patience_s[limited]) == pytest.approx(8.0, rel=0.05)
    assert np.isfinite(drawn(cancel_share=1.0).cancel_after_s).all()


def test_shares_of_priorities_and_classes() -> None:
    shares = [0.5, 0.0, 0.3, 0.2]
    found = np.bincount(drawn(priority_shares=shares).priority, minlength=4) / COUNT
    np.testing.assert_allclose(found, shares, atol=0.015)
    assert found[1] == 0
    found = np.bincount(drawn(tenant_shares=shares).tenant, minlength=4) / COUNT
    np.testing.assert_allclose(found, shares, atol=0.015)
    classes = [SloClassConfig("chat", 0.75, 0.5, 0.05), SloClassConfig("batch", 0.25)]
    workload = drawn(slo_classes=classes)
    assert np.mean(workload.slo_class == 0) == pytest.approx(0.75, abs=0.015)
    assert [(each.name, each.ttft_s, each.tpot_s) for each in workload.slo_classes] == [
        ("chat", 0.5, 0.05),
        ("batch", np.inf, np.inf),
    ]


def test_images_come_on_top_of_the_prompt() -> None:
    workload = drawn(image_share=0.1, image_tokens=576)
    has_images = workload.image_tokens > 0
    assert has_images.mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(workload.prompt_tokens, np.where(has_images, 676, 100))
    assert set(workload.image_tokens) == {0, 576}


def test_each_column_has_its_own_stream_and_seed() -> None:
    alone = drawn(cancel_share=0.3)
    together = drawn(cancel_share=0.3, priority_shares=[0.5, 0.5], tenant_shares=[0.5, 0.5], image_share=0.5)
    assert not np.array_equal(together.priority, together.tenant)
    np.testing.assert_array_equal(alone.cancel_after_s, together.cancel_after_s)
    assert not np.array_equal(together.priority, together.image_tokens > 0)
    assert not np.array_equal(alone.cancel_after_s, drawn(1, cancel_share=0.3).cancel_after_s)


def test_requests_and_predictions_are_those_without_clients() -> None:
    """And each seed of a scenario has clients of its own."""
    words = ("scenario.workload.test_s=50", "scenario.workload.prediction_error=0.3")
    plain = load_scenario("generated_8xh100", words).traffic
    asked = load_scenario(
        "generated_8xh100", (*words, "scenario.workload.clients.priority_shares=[0.2,0.8]")
    ).traffic
    for draw in (lambda traffic: traffic.test_workload(3), lambda traffic: traffic.train_workload(seed())):
        ours, theirs = draw(asked), draw(plain)
        for name in ("arrival_s", "prompt_tokens", "output_tokens", "predicted_output_tokens"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert theirs.priority is None and set(ours.priority) == {0, 1}
    assert not np.array_equal(asked.test_workload(0).priority[:50], asked.test_workload(1).priority[:50])


def seed() -> np.random.SeedSequence:
    return np.random.SeedSequence(5)


def test_limits_are_those_of_the_class_or_of_the_objective() -> None:
    scenario = load_scenario(
        "generated_8xh100",
        (
            "scenario.workload.test_s=50",
            "scenario.workload.clients.slo_classes="
            "[{name:chat,share:0.5,ttft_s:0.2,tpot_s:0.03},{name:batch,share:0.5}]",
        ),
    )
    workload = scenario.traffic.test_workload(0)
    limits = scenario.slo_limits(workload)
    np.testing.assert_array_equal(limits.ttft_s, np.where(workload.slo_class == 0, 0.2, np.inf))
    np.testing.assert_array_equal(limits.tpot_s, np.where(workload.slo_class == 0, 0.03, np.inf))
    assert scenario.is_plain and scenario.simulate(workload, make_router("jsq")).finished.all()
    objective = load_scenario("generated_8xh100")
    assert objective.slo_limits(workload.take(slice(0, 0))).ttft_s.shape == (0,)
    assert objective.slo_limits(PLAIN) == (objective.objective.slo_ttft_s, objective.objective.slo_tpot_s)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cancel_share": 1.5}, r"clients.cancel_share = 1.5: must be in \[0, 1\]"),
        ({"image_share": -0.1}, r"clients.image_share = -0.1: must be in \[0, 1\]"),
        ({"mean_patience_s": 0.0}, "clients.mean_patience_s = 0.0: must be positive and finite"),
        ({"image_tokens": 0}, "clients.image_tokens = 0: must be at least 1"),
        ({"tenant_shares": [0.5, 0.6]}, r"clients.tenant_shares = \[0.5, 0.6\]: must be shares of"),
        ({"priority_shares": [0.5, 0.6]}, r"clients.priority_shares = \[0.5, 0.6\]: must be shares of"),
        ({"priority_shares": [1.5, -0.5]}, r"clients.priority_shares = \[1.5, -0.5\]: must be shares of"),
        ({"slo_classes": [SloClassConfig("a", 0.5)]}, r"clients.slo_classes = \[0.5\]: must be shares of"),
        ({"slo_classes": [SloClassConfig("a", 1.0, 0.0)]}, r"slo_classes\[0\].ttft_s = 0.0: must be above 0"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"scenario.workload.*{message}"):
        ClientsConfig(**settings)
