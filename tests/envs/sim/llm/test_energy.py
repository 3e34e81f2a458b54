"""The joules that replicas count are those of the specification."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.iterations.power import iteration_power
from servegym.costmodels.power import PowerModel
from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.sim.llm.energy import energy_j
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.setup import ReplicaSpec, fleet_with
from servegym.envs.sim.llm.simulate import _run
from servegym.envs.sim.llm.state import Fleet
from tests.conftest import examples
from tests.envs.sim.llm.test_against_reference import Case, random_case
from tests.reference import energy
from tests.reference import llm as reference
from tests.reference import simulate as reference_fleet

GPU, MODEL, GPUS_OF_A_REPLICA = GPUS["a100_sxm"], MODELS["llama_2_7b"], 2


def slow_gpu(rng: np.random.Generator) -> tuple[energy.Power, PowerModel, float]:
    """Of random speed, so that iterations of about a second use any share of it: its power in both forms."""
    slower = float(rng.choice([10, 100, 1000]))
    shares = PowerModel(*rng.uniform(0.0, 0.8, 3))
    power = energy.Power(
        gpus=GPUS_OF_A_REPLICA,
        tdp_w=GPU.tdp_w,
        hbm_bytes_per_s=GPU.hbm_bytes_per_s / slower,
        peak_flops=GPU.peak(MODEL.dtype) / slower,
        weight_bytes=MODEL.weight_bytes,
        kv_bytes_per_token=MODEL.kv_bytes_per_token,
        parameters=MODEL.parameter_count,
        **asdict(shares),
    )
    return power, shares, slower


def played(case: Case, spec: ReplicaSpec) -> Fleet:
    """The fleet after all requests of a case."""
    workload, script = case.workload, iter(case.decisions)
    fleet = fleet_with(workload, [spec] * case.num_replicas)
    _run(fleet, workload, Router("scripted", lambda *_: int(next(script))), 0, False)
    return fleet


@given(seed=st.integers(0, 2**63 - 1))
@examples(200)
def test_equal_to_the_reference(seed: int) -> None:
    """Over whole runs of any scheduler, with what is skipped, preempted, swapped and idle between."""
    case = random_case(seed)
    power, shares, slower = slow_gpu(np.random.default_rng(seed))
    compiled = iteration_power(MODEL, GPU, GPUS_OF_A_REPLICA, shares)
    compiled = compiled._replace(
        **{key: slower * getattr(compiled, key) for key in ("weights_s", "s_per_kv_token", "s_per_token")}
    )
    fleet = played(case, ReplicaSpec(case.engine, case.cost, compiled))
    script = iter(case.decisions)
    slow = reference_fleet.simulate_fleet(
        case.workload,
        lambda *_: int(next(script)),
        replicas=[reference_fleet.ReplicaSpec(reference.Engine(**asdict(case.engine)), case.cost)]
        * case.num_replicas,
    )
    start_s, end_s = float(case.workload.arrival_s[0]), float(slow.finish_s.max())
    for replica_id, log in enumerate(slow.iterations):
        expected = energy.energy_j(power, log, start_s, end_s)
        assert energy_j(fleet, replica_id, 1, start_s, end_s) == pytest.approx(expected, rel=1e-9)


def test_nothing_is_counted_unless_asked() -> None:
    """And counting changes nothing else."""
    case = random_case(1)
    plain = played(case, ReplicaSpec(case.engine, case.cost))
    counted = played(case, ReplicaSpec(case.engine, case.cost, iteration_power(MODEL, GPU)))
    assert not plain.replicas["active_j"].any() and (counted.replicas["active_j"] > 0).any()
    np.testing.assert_array_equal(plain.requests, counted.requests)


def test_replicas_of_different_power_differ() -> None:
    """The same iterations on twice the power take twice the energy."""
    case = random_case(1)
    one = iteration_power(MODEL, GPU)
    joules = [
        played(case, ReplicaSpec(case.engine, case.cost, power)).replicas["active_j"].sum()
        for power in (one, one._replace(full_w=2 * one.full_w))
    ]
    assert joules[1] == pytest.approx(2 * joules[0])
