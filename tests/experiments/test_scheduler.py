"""`scheduler=NAME`: engines serve by a ranking in simulations, replays and evaluations."""

from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of

EXACT = ("scenario.workload.predictor=exact",)
BUSY = (
    "simulate",
    *SMALL_SCENARIO,
    "scenario.workload.rate_rps=60",
    "scenario.engine.max_num_seqs=16",
    *EXACT,
)


def test_a_scheduler_changes_who_is_served_and_is_replayed(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    own = answer_of(capsys, *BUSY, "out=own")
    srpt = answer_of(capsys, *BUSY, "scheduler=srpt", "out=srpt")
    assert own["scheduler"] is None
    assert srpt["scheduler"] == {"name": "srpt"}
    assert srpt["metrics"]["mean_latency_s"] < own["metrics"]["mean_latency_s"]
    assert answer_of(capsys, "replay", "srpt")["max_rel_diff"] < 1e-9


def test_its_parameters_reach_it(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """At c = 1 and with exact predictions TRAIL is SRPT; at c = 0 it preempts nobody."""
    srpt = answer_of(capsys, *BUSY, "scheduler=srpt", "out=srpt")["metrics"]
    free, bound = (
        answer_of(capsys, *BUSY, "scheduler=trail", f"scheduler.c={c}", "out=trail") for c in (1.0, 0.0)
    )
    assert free["scheduler"] == {"name": "trail", "c": 1.0}
    assert free["metrics"] == srpt
    assert bound["metrics"] != srpt


def test_the_table_names_both(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main([*BUSY, "scheduler=sjf"]) == 0
    assert "jsq+sjf on generated_8xh100" in capsys.readouterr().out


def test_routers_with_and_without_schedulers_are_compared(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("policies=[round_robin,round_robin+srpt]", "seeds=2", "out=compared")
    answer = answer_of(capsys, "evaluate", *BUSY[1:], *words)
    assert answer["scheduler"] == {"round_robin": None, "round_robin+srpt": "srpt"}
    means = {name: found["mean_latency_s"]["iqm"] for name, found in answer["policies"].items()}
    assert means["round_robin+srpt"] < means["round_robin"]


NEED = {
    "trail": "predicted output lengths: the scenario has none (scenario.workload.predictor)",
    "multi_bin": "predicted output lengths: the scenario has none (scenario.workload.predictor)",
    "priority": "priorities of requests: the scenario has none (scenario.workload.clients.priority_shares)",
    "edf": "SLO classes: the scenario has none (scenario.workload.clients.slo_classes)",
    "vtc": "tenants: the scenario has none (scenario.workload.clients.tenant_shares)",
}


@pytest.mark.parametrize("name", NEED)
def test_what_it_needs_is_named_by_its_key(
    capsys: pytest.CaptureFixture[str], folder: Path, name: str
) -> None:
    for words in (
        ("simulate", *SMALL_SCENARIO, f"scheduler={name}"),
        ("evaluate", *SMALL_SCENARIO, f"policies=[jsq+{name}]", "seeds=2"),
    ):
        said = error_of(capsys, *words)
        assert said.startswith("scheduler ")
        assert said.endswith(f"needs {NEED[name]}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*BUSY, "scheduler=trial"), "did you mean trail?"),
        ((*BUSY, "scheduler=trail", "scheduler.c=2"), "scheduler.c = 2: must be from 0 to 1"),
        ((*BUSY, "scheduler=trail", "scheduler.c=much"), "scheduler.c = much: must be of type float"),
        ((*BUSY, "scheduler=trail", "+scheduler.d=2"), "scheduler trail: "),
        (
            (*BUSY, "scheduler=fastserve", "+scheduler.clock=2"),
            "scheduler.clock = 2: is the scenario's, must not be given",
        ),
        (
            (*BUSY, "scheduler=conservative", "engine@scenario.engine=orca"),
            "scheduler conservative: engine.reserved_output_share = 1.0: only with scheduler vllm_v1",
        ),
        (
            ("train", *SMALL_SCENARIO, "agent=ppo_mlp", "scheduler=srpt"),
            "scheduler: must not be chosen here, this command has none",
        ),
        (
            ("evaluate", *SMALL_SCENARIO, "policies=[jsq+fifo]", "seeds=2"),
            "policies: jsq+fifo: what follows the + must be one of sjf, priority",
        ),
    ],
)
def test_mistakes_are_named(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in error_of(capsys, *words)
