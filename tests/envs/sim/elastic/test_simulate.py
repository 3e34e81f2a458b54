"""The simulator's actions, with cases worked by hand."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.elastic.actions import UNLIMITED
from servegym.envs.sim.elastic.simulate import simulate_elastic
from servegym.envs.sim.elastic.state import NUM_PAUSES, FleetState
from tests.envs.sim.elastic import acting
from tests.envs.sim.elastic.fleets import (
    OVERHEAD_S,
    PER_KV_TOKEN_S,
    PER_TOKEN_S,
    fleet,
    script,
    workload,
)

CONSTANT_S, TOKEN_S, SQUARED_S, EXCHANGE_S, MIGRATE_S = 0.02, 5e-5, 2e-9, 1e-4, 6e-7
"""Of `linear_elastic_cost`."""


def do_prefill(state: FleetState, requests, instances, delay_s=0.0, striped=False) -> int:
    return acting.prefill(state, np.array(requests, np.int64), np.array(instances), delay_s, striped)


def do_decode(state: FleetState, group, added=(), master_batch=128, fullest_first=True) -> None:
    acting.decode(state, group, np.array(added, np.int64), 0.0, master_batch, fullest_first)


def prefill_s(instances: int, *lengths: int) -> float:
    total, squares = sum(lengths), sum(length * length for length in lengths)
    return CONSTANT_S + TOKEN_S / instances * total + SQUARED_S / instances * squares


def test_a_request_is_prefilled_and_decoded_in_the_time_that_the_formulas_give():
    seen = []

    def step(state):
        seen.append((float(state.clock[0]), state.used.tolist()))
        if len(seen) == 1:
            do_prefill(state, [0], [0, 1])
        elif state.size[0]:
            do_decode(state, 0)

    results = simulate_elastic(fleet(), workload((1.0, 600, 3)), script(*[step] * 4))
    first_s = 1.0 + prefill_s(2, 600)
    step_s = OVERHEAD_S + PER_TOKEN_S + PER_KV_TOKEN_S * 601
    assert results.first_token_s[0] == pytest.approx(first_s, rel=1e-12)
    assert results.finish_s[0] == pytest.approx(first_s + 2 * step_s + PER_KV_TOKEN_S, rel=1e-12)
    assert [used for _, used in seen] == [[0] * 4, [600, 0, 0, 0], [601, 0, 0, 0], [0] * 4]
    assert (results.num_prefills, results.num_decodes, results.num_scale_ups) == (1, 2, 0)


def test_packed_tokens_fill_the_fullest_instance_first_and_empty_members_leave():
    log = []

    def first(state):
        do_prefill(state, [0], [2])
        do_prefill(state, [1, 2], [3, 0, 1])

    def second(state):
        log.append((state.kv.tolist(), state.member[:2].tolist()))

    results = simulate_elastic(
        fleet(), workload((0.0, 700, 9), (0.0, 500, 9), (0.0, 900, 9)), script(first, second, second)
    )
    assert results.num_prefills == 2
    assert log[-1][0] == [[0, 0, 700, 0], [500, 0, 0, 0], [500, 400, 0, 0]]
    assert log[-1][1] == [[0, 0, 1, 0], [1, 1, 0, 0]]


def test_striped_tokens_lie_evenly():
    log = []
    simulate_elastic(
        fleet(),
        workload((0.0, 10, 9)),
        script(
            lambda state: do_prefill(state, [0], [1, 3, 0], striped=True),
            lambda state: log.append(state.kv[0].tolist()),
        ),
    )
    assert log == [[3, 4, 0, 3]]


def test_masters_share_a_large_batch_and_a_small_one_has_one_master():
    log = []

    def begin(state):
        do_prefill(state, list(range(10)), [0, 1])

    def grow(state):
        do_decode(state, 0, added=[2], master_batch=2)
        log.append(state.used.tolist())

    def shrink(state):
        do_decode(state, 0, master_batch=UNLIMITED)
        log.append(state.used.tolist())

    results = simulate_elastic(fleet(), workload(*[(0.0, 50, 3)] * 10), script(begin, grow, shrink))
    # 500 tokens lie on instance 0; instance 1 has left; 10 requests: 10 // 2 to 0, the other 5 to 2
    assert log == [[505, 0, 5, 0], [515, 0, 5, 0]]
    assert results.num_scale_ups == 1
    attention_s = PER_KV_TOKEN_S * 505
    step_s = OVERHEAD_S + 5 * PER_TOKEN_S + attention_s + EXCHANGE_S
    last_s = OVERHEAD_S + 10 * PER_TOKEN_S + PER_KV_TOKEN_S * 515 + EXCHANGE_S
    expected = prefill_s(2, *[50] * 10) + step_s + last_s
    assert results.finish_s[9] == pytest.approx(expected, rel=1e-12)


def test_migration_takes_from_requests_in_order_and_the_source_leaves_when_empty():
    log, seconds = [], []

    def move(state):
        seconds.append(acting.migrate(state, 0, 0, 1, 700))
        log.append((state.kv[:2].tolist(), state.member[0].tolist()))
        seconds.append(acting.migrate(state, 0, 0, 2, 100))
        log.append((state.kv[:2].tolist(), state.member[0].tolist()))

    results = simulate_elastic(
        fleet(4, per_node=2),
        workload((0.0, 500, 9), (0.0, 300, 9)),
        script(lambda state: do_prefill(state, [0, 1], [0]), move),
    )
    assert log[0] == ([[0, 500, 0, 0], [100, 200, 0, 0]], [1, 1, 0, 0])
    assert log[1] == ([[0, 500, 0, 0], [0, 200, 100, 0]], [0, 1, 1, 0])
    assert seconds == pytest.approx([700 * MIGRATE_S, 4 * 100 * MIGRATE_S])
    assert (results.num_migrations, results.migrated_tokens) == (2, 800)


def test_a_paused_request_computes_its_output_again_and_keeps_its_first_token_time():
    def stop(state):
        acting.pause(state, 1)
        assert state.counters[NUM_PAUSES] == 1
        assert state.used.sum() == 101
        do_decode(state, 0)

    def resume(state):
        do_prefill(state, [1], [1])

    results = simulate_elastic(
        fleet(),
        workload((0.0, 100, 3), (0.0, 200, 3)),
        script(
            lambda state: do_prefill(state, [0, 1], [0]),
            lambda state: do_decode(state, 0),
            stop,
            resume,
        ),
    )
    together_s = prefill_s(1, 100, 200)
    assert results.first_token_s == pytest.approx([together_s] * 2)
    step_s = OVERHEAD_S + 2 * PER_TOKEN_S + PER_KV_TOKEN_S * 302
    alone_s = OVERHEAD_S + PER_TOKEN_S + PER_KV_TOKEN_S * 102
    assert results.finish_s[0] == pytest.approx(together_s + step_s + alone_s)
    assert results.finish_s[1] == pytest.approx(together_s + step_s + alone_s + prefill_s(1, 202))


def test_merged_groups_go_on_as_one():
    def join(state):
        if state.activity[:2].any():
            return
        acting.merge(state, 0, 1)
        assert state.member[0].tolist() == [1, 1, 0, 0]
        do_decode(state, 0)

    def begin(state):
        do_prefill(state, [0], [0])
        do_prefill(state, [1], [1])

    results = simulate_elastic(fleet(), workload((0.0, 100, 2), (0.0, 200, 2)), script(begin, join, join))
    assert results.finish_s[0] == results.finish_s[1]


def test_what_is_longer_than_the_fleet_is_rejected_on_arrival():
    results = simulate_elastic(
        fleet(2),
        workload((0.0, 1999, 1), (1.0, 2000, 1)),
        script(lambda state: do_prefill(state, [0], [0, 1])),
    )
    assert results.rejected.tolist() == [False, True]
    assert results.finished.tolist() == [True, False]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda state: do_prefill(state, [3], [0]), "request 3 does not wait"),
        (lambda state: do_prefill(state, [0], [7]), "instance 7: must be 0 to 3"),
        (lambda state: do_prefill(state, [], [0]), "needs a request"),
        (lambda state: (do_prefill(state, [0], [0]), do_prefill(state, [1], [0])), "runs"),
        (lambda state: do_prefill(state, [2], [0]), "no room"),
        (lambda state: do_prefill(state, [0, 1, 0], [0]), "request 0 does not wait"),
        (lambda state: do_prefill(state, [0], [1, 1]), "runs"),
        (lambda state: do_decode(state, 0), "must be a group at rest"),
        (lambda state: acting.pause(state, 0), "must be a group at rest"),
        (lambda state: acting.reject(state, 3), "does not wait"),
        (lambda state: acting.migrate(state, 0, 0, 1, 1), "must be a group at rest"),
        (lambda state: acting.merge(state, 3, 3), "merged with itself"),
    ],
)
def test_an_action_that_is_not_allowed_ends_the_simulation(act, message):
    requests = workload((0.0, 10, 2), (0.0, 10, 2), (0.0, 3000, 2), (9.0, 10, 2))
    with pytest.raises(ValueError, match=message):
        simulate_elastic(fleet(), requests, script(act))


def test_what_a_manager_raises_comes_through():
    def fails(state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        simulate_elastic(fleet(), workload((0.0, 10, 2)), script(fails))


def test_a_manager_that_does_nothing_leaves_requests_unserved():
    results = simulate_elastic(fleet(), workload((0.0, 10, 2)), script())
    assert not results.finished.any()
    assert not results.rejected.any()


def test_a_cost_that_does_not_cover_the_fleet_is_refused():
    with pytest.raises(InputError, match="num_instances = 8: must be at most 4"):
        type(fleet())(8, 1000, 4, fleet().cost)
