"""Fleets in scenarios: the plan is what the YAML says, and what does not fit is named by its full key."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import MODELS
from servegym.envs.batching.env import BatchingEnv
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.cluster.plan import Failure
from servegym.envs.sim.llm.simulate import OUTCOMES

SMALL = ("scenario.workload.test_s=20", "scenario.workload.rate_rps=30")


def with_fleet(*overrides: str, replicas: int | None = None) -> Scenario:
    """A small scenario with these values of `scenario.fleet`."""
    count = "null" if replicas is None else str(replicas)
    words = (f"scenario.fleet.replicas={count}", *(f"scenario.fleet.{word}" for word in overrides))
    return load_scenario("generated_8xh100", (*SMALL, *words))


def test_pools_take_from_the_fleet_what_they_do_not_say() -> None:
    scenario = with_fleet(
        "link_bytes_per_s=1e9",
        "link_latency_s=0.25",
        "memory_fraction=0.8",
        "pools=[{replicas:2},{replicas:1,gpu:a100_sxm,link_latency_s:0.5},"
        "{replicas:1,tensor_parallel:2,memory_fraction:0.9,engine:{max_num_seqs:64}}]",
    )
    members = scenario.plan.replicas
    assert scenario.num_replicas == scenario.config.fleet.num_replicas == len(members) == 4
    assert members[0] is members[1]
    assert [member.link_bytes_per_s for member in members] == [1e9] * 4
    assert [member.link_latency_s for member in members] == [0.25, 0.25, 0.5, 0.25]
    assert {member.kv_bytes_per_block for member in members} == {
        16 * MODELS["llama_3_1_8b"].kv_bytes_per_token
    }
    blocks = [member.engine.num_kv_blocks for member in members]
    assert blocks[0] == blocks[2] < blocks[3] / 2  # 80 GiB each; weights are there only once on two
    assert [member.engine.max_num_seqs for member in members] == [256, 256, 256, 64]
    h100, a100, two = (members[i].cost.linear_s[1024] for i in (0, 2, 3))
    assert a100 > 2 * h100 > 2 * two
    assert scenario.extra == "scenario.fleet.pools"


def test_pools_of_equal_replicas_are_the_plain_fleet() -> None:
    pools = with_fleet("pools=[{replicas:1},{replicas:2,gpu:h100_sxm}]")
    plain = with_fleet(replicas=3)
    assert pools.is_plain and plain.is_plain
    workload = plain.traffic.test_workload(0)
    ours, theirs = (each.simulate(workload, make_router("jsq")) for each in (pools, plain))
    np.testing.assert_array_equal(ours.finish_s, theirs.finish_s)


def test_what_is_operated_reaches_the_plan() -> None:
    plan = with_fleet(
        "dispatch_latency_s=0.1",
        "state_delay_s=0.2",
        "startup_s=3",
        "encode_overhead_s=0.4",
        "encode_s_per_token=0.5",
        "on_failure=lost",
        "failures=[{replica:1,time_s:3,until_s:4},{replica:1,time_s:4},{replica:0,time_s:1}]",
        "scaling=[{time_s:1,replicas:2}]",
        replicas=3,
    ).plan
    assert (plan.dispatch_latency_s, plan.state_delay_s, plan.startup_s) == (0.1, 0.2, 3.0)
    assert (plan.encode_overhead_s, plan.encode_s_per_token, plan.on_failure) == (0.4, 0.5, "lost")
    assert plan.failures == [Failure(1, 3.0, 4.0), Failure(1, 4.0), Failure(0, 1.0)]
    assert plan.scaling == [(1.0, 2)]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("dispatch_latency_s=0.1", "fleet.dispatch_latency_s"),
        ("state_delay_s=0.1", "fleet.state_delay_s"),
        ("failures=[{replica:0,time_s:1}]", "fleet.failures"),
        ("scaling=[{time_s:0,replicas:1}]", "fleet.scaling"),
    ],
)
def test_what_is_more_than_a_plain_fleet(override: str, key: str) -> None:
    scenario = with_fleet(override, replicas=1)
    assert scenario.extra == f"scenario.{key}"
    with pytest.raises(
        InputError, match=f"^scenario.{key}: an environment that schedules has equal replicas"
    ):
        BatchingEnv(scenario)


def test_startup_and_links_alone_leave_a_fleet_plain() -> None:
    assert with_fleet("startup_s=5", "link_bytes_per_s=1", "on_failure=lost", replicas=2).is_plain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("replicas=8", "pools=[{replicas:2}]"), "fleet.replicas = 8: must be null where there are pools"),
        (("replicas=null",), "fleet.replicas = null: must be from 1 to 4096"),
        (("pools=[{replicas:2},{replicas:0}]",), r"fleet.pools\[1\].replicas = 0: must be from 1 to 4096"),
        (("pools=[{replicas:4096},{replicas:1}]",), "fleet.pools = 4097 replicas: must be from 1 to 4096"),
        (("pools=[{gpu:a100_sxm}]",), r"no value for scenario.fleet.pools\[0\].replicas"),
        (("pools=[{replicas:1,gpus:2}]",), "'scenario.fleet.pools'. Key 'gpus' not in 'PoolConfig'"),
        (("pools=[{replicas:1,gpu:a1}]",), r"scenario.fleet.pools\[0\].gpu = a1: must be one of a100_sxm"),
        (("pools=[{replicas:1,role:both}]",), r"fleet.pools\[0\].role = both: must be one of mixed, prefill"),
        (("pools=[{replicas:1,tensor_parallel:0}]",), r"pools\[0\].tensor_parallel = 0: must be at least 1"),
        (("pools=[{replicas:1,tensor_parallel:3}]",), r"^scenario.fleet.pools\[0\]: tensor_parallel is 3"),
        (
            ("pools=[{replicas:1,memory_fraction:0}]",),
            r"pools\[0\].memory_fraction = 0.0: must be in \(0, 1\]",
        ),
        (
            ("pools=[{replicas:1,memory_fraction:0.1}]",),
            r"^scenario.fleet.pools\[0\]: model llama_3_1_8b does",
        ),
        (("pools=[{replicas:1,link_bytes_per_s:0}]",), r"pools\[0\].link_bytes_per_s = 0.0: must be above 0"),
        (("link_bytes_per_s=0", "replicas=1"), "scenario.fleet.link_bytes_per_s = 0.0: must be above 0"),
        (("link_latency_s=-1", "replicas=1"), "scenario.fleet.link_latency_s = -1.0: must be at least 0"),
        (
            ("pools=[{replicas:1,engine:{seqs:1}}]",),
            r"fleet.pools\[0\].engine.seqs: no such key, must be one",
        ),
        (
            ("pools=[{replicas:1},{replicas:1,engine:{max_num_seqs:0}}]",),
            r"^scenario.fleet.pools\[1\].engine.max_num_seqs = 0: must be at least 1",
        ),
        (
            ("pools=[{replicas:1,engine:{max_num_seqs:few}}]",),
            r"^scenario.fleet.pools\[0\].engine.max_num_seqs = few: Value 'few'",
        ),
        (
            ("pools=[{replicas:1,engine:{block_size:0}}]",),
            r"^scenario.fleet.pools\[0\].engine.block_size = 0: must be at least 1",
        ),
        (
            ("pools=[{replicas:1},{replicas:1,role:encode,engine:{block_size:8}}]",),
            r"fleet.pools\[1\].engine = \{'block_size': 8\}: must be empty with role encode",
        ),
        (("pools=[{replicas:1,role:prefill}]",), "scenario.fleet.role: no replica can decode"),
        (("pools=[{replicas:1},{replicas:1,role:decode}]",), "scenario.fleet.role: no replica has prefill"),
        (
            ("pools=[{replicas:2,role:prefill},{replicas:1,role:decode,engine:{scheduler:sarathi}}]",),
            r"^scenario.fleet.pools\[1\].engine.scheduler = sarathi: prefill and decode roles",
        ),
        (
            (
                "pools=[{replicas:1,engine:{prefix_caching:true}},"
                "{replicas:1,engine:{prefix_caching:true,block_size:32}}]",
            ),
            r"^scenario.engine.block_size = \[16, 32\]: must be the same for all",
        ),
        (
            ("failures=[{replica:2,time_s:1}]", "replicas=2"),
            r"failures\[0\].replica = 2: must be from 0 to 1",
        ),
        (
            ("failures=[{replica:0,time_s:-1}]", "replicas=2"),
            r"fleet.failures\[0\].time_s = -1.0: must be at",
        ),
        (
            ("failures=[{replica:0,time_s:1,until_s:1}]", "replicas=2"),
            r"^scenario.fleet.failures\[0\].until_s = 1.0: must be after time_s = 1.0",
        ),
        (
            ("failures=[{replica:0,time_s:5},{replica:0,time_s:1,until_s:6}]", "replicas=2"),
            r"^scenario.fleet.failures\[0\].time_s = 5.0: must be at least 6.0, when the failure \[1\]",
        ),
        (
            ("scaling=[{time_s:1,replicas:3}]", "replicas=2"),
            r"fleet.scaling\[0\].replicas = 3: must be from 0",
        ),
        (
            ("scaling=[{time_s:-1,replicas:1}]", "replicas=2"),
            r"scaling\[0\].time_s = -1.0: must be at least 0",
        ),
        (("on_failure=wait", "replicas=2"), "scenario.fleet.on_failure = wait: must be reroute or lost"),
        (
            ("role_switch_s=-1", "replicas=2"),
            "scenario.fleet.role_switch_s = -1.0: must be at least 0 and finite",
        ),
        (("startup_s=-1", "replicas=2"), "scenario.fleet.startup_s = -1.0: must be at least 0 and finite"),
        (("state_delay_s=inf", "replicas=2"), "scenario.fleet.state_delay_s = inf: must be at least 0 and"),
    ],
)
def test_mistakes_are_named(overrides: tuple[str, ...], message: str) -> None:
    words = ("scenario.fleet.replicas=null", *(f"scenario.fleet.{word}" for word in overrides))
    with pytest.raises(InputError, match=message) as error:
        load_scenario("generated_8xh100", words)
    assert "\n" not in str(error.value)


def test_a_request_that_fits_nowhere_names_its_line(tmp_path) -> None:
    """400 tokens fit into no decode replica of 20 blocks, though their prefill does elsewhere."""
    path = tmp_path / "trace.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,9,9\n1,300,100\n2,9,9\n30,9,9\n")
    pools = "pools=[{replicas:1,role:prefill},{replicas:1,role:decode,engine:{num_kv_blocks:20}}]"
    words = (f"scenario.workload.trace={path}", "scenario.workload.format=csv", "scenario.workload.test_s=10")
    with pytest.raises(InputError, match=r"trace.csv, line 3: request 1 with 300 prompt and 100 output"):
        load_scenario("generated_8xh100", (*words, "scenario.fleet.replicas=null", f"scenario.fleet.{pools}"))


def test_every_kind_of_ending_and_the_log() -> None:
    """Two of three replicas fail with what they have, clients are impatient: every token is accounted for."""
    scenario = load_scenario(
        "generated_8xh100",
        (
            *SMALL,
            "scenario.fleet.replicas=3",
            "scenario.fleet.failures=[{replica:0,time_s:1},{replica:2,time_s:1.5,until_s:2}]",
            "scenario.fleet.on_failure=lost",
            "scenario.workload.clients.cancel_share=0.5",
            "scenario.workload.clients.mean_patience_s=0.5",
        ),
    )
    workload = scenario.traffic.test_workload(0)
    plain = scenario.simulate(workload, make_router("round_robin"))
    results = scenario.simulate(workload, make_router("round_robin"), log=True)
    assert {OUTCOMES[each] for each in results.outcome} == {"finished", "cancelled", "lost"}
    np.testing.assert_array_equal(plain.outcome, results.outcome)
    np.testing.assert_allclose(plain.finish_s, results.finish_s, rtol=1e-9)
    log = results.log
    assert log is not None
    tokens = np.bincount(log.entries["request"], log.entries["tokens"], minlength=workload.num_requests)
    needed = workload.prompt_tokens + workload.output_tokens - 1
    np.testing.assert_array_equal(tokens[results.finished], needed[results.finished])
    assert (tokens[~results.finished] < needed[~results.finished]).all()
    assert (log.iterations["end_s"][log.iterations["replica"] == 0] <= 1.0).all()
