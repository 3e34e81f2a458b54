"""`servegym evaluate`: the same requests for all, files that appear as a whole, errors before any work."""

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from servegym.agents.learners.config import PPOConfig
from servegym.agents.networks.build import build_network
from servegym.agents.serving.artifact.export import export_policy
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.scenario.compose import compose_scenario
from servegym.experiments import evaluate as command
from servegym.experiments.cli import main
from servegym.experiments.configs import build_router
from servegym.experiments.evaluation.comparison import METRICS, TIMES, Evaluation
from servegym.experiments.evaluation.contenders import configured_router, contender, kind_of
from servegym.experiments.run_directory import load_run_policy
from servegym.experiments.train_config import TrainConfig

SMALL = (
    "scenario.fleet.replicas=2",
    "scenario.workload.rate_rps=22",
    "scenario.workload.test_s=20",  # about 100 requests
)
SCENARIO = ("scenario=generated_8xh100", *SMALL)
THREE = "policies=[round_robin,random,jsq]"


def answer_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What the command prints, which is one JSON object and nothing else."""
    capsys.readouterr()
    assert main(["evaluate", *words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_run(folder: Path, network: str = "gnn", *overrides: str) -> Path:
    """A finished training run whose network has been drawn and never trained."""
    scenario = compose_scenario("generated_8xh100", (*SMALL, *overrides))
    agent = PPOConfig(network=network, hidden=8)
    numbers = {"total_steps": 1, "num_envs": 1, "checkpoint_steps": 1}
    config = TrainConfig(scenario=scenario, agent=agent, run_dir=str(folder), **numbers)
    folder.mkdir()
    torch.manual_seed(1)
    weights = build_network(network, scenario.fleet.replicas, agent.hidden, agent.layers).state_dict()
    torch.save(weights, folder / "policy.pt")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
    provenance = {"scenario": scenario.name, "held_out": Scenario(scenario).traffic.held_out}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "finished.json").write_text(json.dumps({"steps": 8192}))
    return folder


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a small evaluation."""
    monkeypatch.setattr(command, "draw_plots", lambda *_: {})


def test_answer_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    answer = answer_of(capsys, *SCENARIO, THREE, "seeds=[3,0,7]", f"out={out}")
    assert answer["scenario"] == "generated_8xh100"
    assert answer["workload_source"] == "generator fitted to azure_conv_2023"
    assert answer["seeds"] == [3, 0, 7]
    assert list(answer["policies"]) == ["round_robin", "random", "jsq"]
    for estimates in answer["policies"].values():
        assert list(estimates) == list(METRICS)
        assert all(found["low"] <= found["iqm"] <= found["high"] for found in estimates.values())
    assert len(answer["comparisons"]) == 3 * 2 * len(TIMES)
    assert answer["out"] == str(out)

    assert sorted(path.name for path in out.iterdir()) == sorted(command.FILES)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    results = read_rows(out / "results.csv")
    assert {row["policy"] for row in results} == {"round_robin", "random", "jsq"}
    assert {row["seed"] for row in results} == {"3", "0", "7"}
    summary = {(row["policy"], row["metric"]): row for row in read_rows(out / "summary.csv")}
    found = answer["policies"]["jsq"]["p99_ttft_s"]
    assert float(summary["jsq", "p99_ttft_s"]["iqm"]) == found["iqm"]
    assert len(read_rows(out / "comparisons.csv")) == len(answer["comparisons"])
    page = Path(answer["report"]).read_text()
    for word in (*SCENARIO, "policies=[round_robin,random,jsq]", "seeds=[3,0,7]"):
        assert word in page


@pytest.mark.usefixtures("no_plots")
def test_every_policy_gets_the_same_requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    seen: list[Evaluation] = []

    def remember(*parts: Any) -> Evaluation:
        seen.append(Evaluation(*parts))
        return seen[0]

    monkeypatch.setattr(command, "Evaluation", remember)
    assert main(["evaluate", *SCENARIO, f"policies=[round_robin,random,{run}]", "seeds=2"]) == 0
    traffic = load_scenario("generated_8xh100", SMALL).traffic
    for results in seen[0].results.values():
        for seed, result in enumerate(results):
            workload = traffic.test_workload(seed)
            np.testing.assert_array_equal(result.arrival_s, workload.arrival_s)
            np.testing.assert_array_equal(result.prompt_tokens, workload.prompt_tokens)
            np.testing.assert_array_equal(result.output_tokens, workload.output_tokens)
    first, second = seen[0].results["random"]
    assert not np.array_equal(first.arrival_s[:50], second.arrival_s[:50])


@pytest.mark.usefixtures("no_plots")
def test_same_command_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SCENARIO, "policies=[random]", "seeds=2", f"out={tmp_path / 'out'}")
    first = answer_of(capsys, *words)
    assert answer_of(capsys, *words) == first  # the first result is replaced
    assert list(first["policies"]) == ["round_robin", "random"]  # the baseline is always there


@pytest.mark.usefixtures("no_plots")
@pytest.mark.compiled
def test_jsq_beats_random_when_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(
        capsys,
        *("scenario=generated_8xh100", "scenario.workload.test_s=600", "scenario.workload.rate_rps=130"),
        *("policies=[random,jsq]", "baseline=random", "seeds=6", f"out={tmp_path / 'out'}"),
    )
    verdicts = {one["metric"]: one["verdict"] for one in answer["comparisons"] if one["policy"] == "jsq"}
    assert verdicts["mean_ttft_s"] == verdicts["p99_ttft_s"] == verdicts["mean_latency_s"] == "better"


@pytest.mark.usefixtures("no_plots")
def test_a_run_brings_its_scenario_and_keeps_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    answer = answer_of(capsys, f"run_dir={run}", "policies=[round_robin]", "seeds=2")
    assert answer["scenario"] == "generated_8xh100"
    assert answer["out"] == str(run / "evaluation")
    assert list(answer["policies"]) == ["round_robin", str(run)]
    page = (run / "evaluation" / "report.html").read_text()
    assert "ppo_gnn, trained for 8,192 decisions on generated_8xh100" in page


@pytest.mark.usefixtures("no_plots")
def test_gnn_on_another_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    answer = answer_of(capsys, *SCENARIO, "scenario.fleet.replicas=5", f"policies=[{run}]", "seeds=2")
    assert answer["policies"][str(run)]["mean_ttft_s"]["iqm"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_plots")
def test_exported_policy_does_as_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    from servegym.agents.serving.artifact.export import export_policy
    from servegym.experiments.run_directory import load_network, load_run_config

    run = write_run(tmp_path / "run")
    artifact = run / "export"
    export_policy(load_network(run, load_run_config(run)), "router", {}, artifact)
    answer = answer_of(capsys, f"policies=[round_robin,{run},{artifact}]", "seeds=2")
    trained, exported = answer["policies"][str(run)], answer["policies"][str(artifact)]
    assert exported["mean_latency_s"]["iqm"] == pytest.approx(trained["mean_latency_s"]["iqm"], rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["policies=[jsqq]"], "jsqq: must be one of random, round_robin, .*jsq, .*or the folder of a"),
        ([], "scenario: no choice made"),
        (["policies=[jsq,jsq]"], "jsq is given twice"),
        (["baseline=best"], "best: must be one of random"),
        (["seeds=1"], "seeds = 1: must be at least 2 different"),
        (["seeds=[1,1]"], r"seeds = \[1, 1\]: must be at least 2 different"),
        (["seeds=[0,-1]"], r"seeds = \[0, -1\]: must be a number of seeds, or a list"),
        (["seeds=few"], "seeds = few: must be a number of seeds"),
        (["run_dir=nowhere"], "nowhere: no such run directory"),
        (["policies=[here]"], "here is incomplete: missing config.yaml, provenance.json, policy.pt"),
        (["policies=[artifact]"], "artifact/policy.json: schema_version = None"),
        (["out=here"], "out = here: exists and holds something else"),
        (["scenario.fleet.replicas=0"], "fleet.replicas = 0: must be from 1"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in (("here", "notes.txt"), ("artifact", "policy.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    given = SCENARIO if words else ()
    assert main(["evaluate", *given, *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    error = printed.err.strip().splitlines()
    assert len(error) == 1
    assert re.search(message, error[0])
    assert sorted(tmp_path.rglob("*")) == before


def test_scenario_keys_without_a_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "scenario.fleet.replicas=4"]) == 2
    assert "scenario" in capsys.readouterr().err


def test_mlp_on_another_fleet_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", "mlp")
    assert main(["evaluate", *SCENARIO, "scenario.fleet.replicas=3", f"policies=[{run}]"]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert f"{run}: mlp network: the fleet has 3 replicas" in error
    assert not (run / "evaluation").exists()


def test_scenarios_of_other_kinds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "scenario=day_shape"]) == 2
    error = capsys.readouterr().err
    assert "scenario = day_shape: must be of LLM fleets, whose routers are compared: " in error


def test_training_on_the_test_part_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    lines = [f"{second},100,10" for second in range(100)]
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n".join(lines))
    key = "scenario.workload."
    overrides = (*SMALL, f"{key}trace={trace}", f"{key}format=csv", f"{key}fitted=null", f"{key}test_s=40")
    run = write_run(tmp_path / "run", "gnn", *overrides[3:])
    contender(str(run), "run", load_scenario("generated_8xh100", overrides))
    policy, provenance = load_run_policy(run)
    export_policy(policy.network, "router", provenance, tmp_path / "artifact")
    longer = load_scenario("generated_8xh100", (*overrides, f"{key}test_s=50"))
    for kind in ("run", "artifact"):
        with pytest.raises(
            InputError, match=f"test_s = 50: must be at most 40, since .*{kind} was trained on"
        ):
            contender(str(tmp_path / kind), kind, longer)


def test_routers_take_their_parameters_from_their_yaml() -> None:
    scenario = load_scenario("generated_8xh100", ("scenario.engine.max_num_batched_tokens=1024",))
    np.testing.assert_array_equal(configured_router("sal", scenario).parameters, [1024, 16, 0])
    np.testing.assert_array_equal(configured_router("power_of_two", scenario).parameters, [2])


def test_routers_are_refused_where_the_scenario_lacks_what_they_need() -> None:
    with pytest.raises(InputError, match="router llm_d needs an engine with a prefix cache"):
        contender("llm_d", "router", load_scenario("generated_8xh100"))
    contender("llm_d", "router", load_scenario("generated_8xh100", ("scenario.engine.prefix_caching=true",)))


def test_a_scheduler_alone_is_for_one_replica() -> None:
    """`fcfs` is the engine's own order, and a scheduler needs no router where there is nothing to route."""
    overrides = ("scenario.workload.test_s=20", "scenario.workload.predictor=exact")
    one = load_scenario("generated_1xh100", overrides)
    workloads = [one.traffic.test_workload(seed) for seed in (0, 1)]
    for name, routed in (("fcfs", "round_robin"), ("sjf", "round_robin+sjf")):
        alone = contender(name, kind_of(name), one).serve(workloads, (0, 1))
        both = contender(routed, kind_of(routed), one).serve(workloads, (0, 1))
        for ours, theirs in zip(alone, both, strict=True):
            np.testing.assert_array_equal(ours.finish_s, theirs.finish_s)
    with pytest.raises(InputError, match="policies: sjf: must be ROUTER or ROUTER.SCHEDULER, .* 2 replicas"):
        contender("sjf", "scheduler", load_scenario("generated_8xh100", SMALL))
    urgent = load_scenario("generated_1xh100", ("scenario.engine.order=priority",))
    with pytest.raises(InputError, match="policies: fcfs: the engine's order is priority"):
        contender("fcfs", "scheduler", urgent)
    with pytest.raises(InputError, match="scheduler sjf needs predicted output lengths"):
        contender("sjf", "scheduler", load_scenario("generated_1xh100"))


def test_routers_are_told_of_the_scenario() -> None:
    """The clock of its iterations, what it asks on average, the roles of replicas; nobody else tells them."""
    slow = load_scenario("generated_8xh100", ("scenario.costmodel.cpu_overhead_s=1.0",))
    told = configured_router("predicted_ttft", slow).parameters
    np.testing.assert_array_equal(told, [*slow.clock, 2048, 16, 0])
    assert told[0] > 1.0 > load_scenario("generated_8xh100").clock.overhead_s
    for name in ("marginal_latency", "min_min"):
        assert configured_router(name, slow).parameters[-1] == slow.traffic.mean_output_tokens
    pools = load_scenario("disaggregated_4p4d")
    np.testing.assert_array_equal(configured_router("distserve", pools).parameters, [1] * 4 + [2] * 4)
    with pytest.raises(InputError, match="router.roles = .*: is the scenario's, must not be given"):
        build_router({"name": "distserve", "roles": ["mixed"]}, pools)


def test_whole_numbers_are_numbers() -> None:
    scenario = load_scenario("generated_8xh100")
    assert build_router({"name": "workload_mixing", "alpha": 1}, scenario).parameters[0] == 1
    with pytest.raises(InputError, match="router.alpha = one: must be of type float"):
        build_router({"name": "workload_mixing", "alpha": "one"}, scenario)


@pytest.mark.usefixtures("no_plots")
def test_a_failure_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = (*SCENARIO, "policies=[jsq]", "seeds=2", f"out={out}")
    answer_of(capsys, *words)
    before = (out / "results.csv").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(command, "write_report", fail)
    with pytest.raises(OSError, match="disk full"):
        main(["evaluate", *words, "scenario.workload.rate_rps=10"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "results.csv").read_bytes() == before


@pytest.mark.usefixtures("no_plots")
def test_tables_are_printed_for_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *SCENARIO, THREE, "seeds=2", f"out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    for words in ("mean TTFT", "P99 latency", "Change against round_robin", "Wins", str(tmp_path / "out")):
        assert words in printed
    assert len([line for line in printed.splitlines() if "random" in line]) == 3


def test_any_fleet_is_evaluated_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replicas that differ, one of which fails, and clients who give up; the report says what there was."""
    words = (
        "scenario.fleet.replicas=null",
        "scenario.fleet.pools=[{replicas:1},{replicas:2,gpu:a100_sxm}]",
        "scenario.fleet.failures=[{replica:0,time_s:0.5,until_s:1}]",
        "scenario.workload.clients.cancel_share=0.5",
        "scenario.workload.clients.mean_patience_s=1",
    )
    out = tmp_path / "out"
    answer = answer_of(capsys, *SCENARIO, *words, "policies=[round_robin,jsq]", "seeds=2", f"out={out}")
    results = {
        (row["policy"], row["seed"], row["metric"]): row["value"] for row in read_rows(out / "results.csv")
    }
    assert float(results["jsq", "0", "num_cancelled"]) > 5
    assert 0 < answer["policies"]["jsq"]["slo_attainment"]["iqm"] < 0.9
    page = Path(answer["report"]).read_text()
    assert "1 replica on one h100_sxm GPU each and 2 replicas on one a100_sxm GPU each, serving" in page
