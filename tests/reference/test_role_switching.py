"""Replicas that change their role, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import ONE_SECOND, batches, run_fleet
from tests.reference.rebalancing import BE_MIXED, START, STOP, by_replicas
from tests.reference.settings import ROLES, ReplicaSpec

AVAILABLE, STANDING, ROLE = 0, -2, -1
BE = {role: BE_MIXED + number for number, role in enumerate(ROLES)}


def spec(role, **more):
    return ReplicaSpec(Engine(16, 4, 4, 20), ONE_SECOND, role, **more)


def ordered(*turns):
    """A rule that moves nobody and gives these orders, turn after turn, and what it saw of each replica."""
    seen, left = [], list(turns)

    def choose(rows):
        seen.append([(int(row[STANDING]), ROLES[int(row[ROLE])]) for row in rows])
        return [], left.pop(0) if left else [0] * len(rows)

    return by_replicas(choose), seen


def test_replica_drains_is_gone_and_comes_back_in_its_new_role():
    # Replica 0 encodes from 0 to 4 and is told at 2. At its turn at 4 it is empty, and changes until 6.5.
    rule, seen = ordered([0] * 4, [BE["prefill"], 0, 0, 0])
    result = run_fleet(
        [(0, 4, 1), (6, 4, 1), (9, 4, 1)],
        [ReplicaSpec(role="encode"), ReplicaSpec(role="encode"), spec("prefill"), spec("mixed")],
        lambda replicas, _: int(replicas[:, AVAILABLE].nonzero()[0][0]),
        {"image_tokens": [4, 0, 0]},
        encode_s_per_token=1.0,
        rebalance=rule,
        rebalance_s=1.0,
        role_switch_s=2.5,
    )
    others = [(0, "encode"), (0, "prefill"), (0, "mixed")]
    assert [row[0] for row in seen[:8]] == [(0, "encode")] * 2 + [(4, "encode")] * 2 + [(5, "encode")] * 2 + [
        (0, "prefill")
    ] * 2
    assert all(row[1:] == others for row in seen)
    assert result.replica.tolist() == [2, 2, 0]
    assert batches(result, 0) == ["C4@0"]


def test_last_of_a_role_an_unknown_role_and_the_own_role_are_no_change():
    rule, seen = ordered([BE["decode"], BE["encode"], BE["decode"]], [0, BE["mixed"], BE["prefill"]])
    roles = ["prefill", "decode", "decode"]
    run_fleet([(0, 4, 9)], [spec(role) for role in roles], rebalance=rule, rebalance_s=1.0, role_switch_s=1.5)
    assert seen[:2] == [[(0, role) for role in roles]] * 2
    assert seen[2] == [(0, "prefill"), (0, "decode"), (5, "decode")]
    assert seen[3] == [(0, "prefill"), (0, "decode"), (0, "prefill")]


def test_one_that_changes_is_not_stopped_and_an_inactive_one_does_not_change():
    rule, seen = ordered([STOP, BE["decode"], 0, 0], [BE["decode"], STOP, 0, 0], [START, START, 0, 0])
    roles = ["prefill", "prefill", "prefill", "decode"]
    run_fleet(
        [(0, 4, 9)],
        [spec(role) for role in roles],
        lambda replicas, _: int(replicas[:, AVAILABLE].nonzero()[0][-1]),
        rebalance=rule,
        rebalance_s=1.0,
        role_switch_s=2.5,
        startup_s=1.5,
    )
    assert [row[0] for row in seen[:6]] == [
        (0, "prefill"),
        *[(3, "prefill")] * 2,
        *[(1, "prefill")],
        (0, "prefill"),
        (0, "prefill"),
    ]
    assert [row[1] for row in seen[:5]] == [
        (0, "prefill"),
        *[(5, "prefill")] * 2,
        (0, "decode"),
        (0, "decode"),
    ]


def test_requests_must_fit_into_every_engine():
    small = ReplicaSpec(Engine(16, 4, 4, 3), ONE_SECOND, "prefill")
    with pytest.raises(InputError, match="request 0: it must fit everywhere"):
        run_fleet([(0, 12, 9)], [small, spec("prefill"), spec("decode")], role_switch_s=0.5)
