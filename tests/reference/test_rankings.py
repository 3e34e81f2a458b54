"""What a ranking is asked, shown and remembers, worked out by hand; and orders that must agree."""

import math

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.ranking import (
    ARRIVAL_S,
    GENERATED_TOKENS,
    LAST_ITERATION_S,
    MEMORY,
    NOW_S,
    PLACE,
    PREDICTED_REMAINING_TOKENS,
    PRIORITY,
    PROMPT_TOKENS,
    SERVED,
    TENANT,
    TTFT_SLO_S,
    Ranking,
    compiled_ranking,
)
from servegym.envs.workloads.slo import SloClass
from tests.reference.engine import Engine
from tests.reference.hand import ONE_SECOND, batches, by, run, run_fleet
from tests.reference.settings import Failure, ReplicaSpec
from tests.reference.simulate import simulate_fleet
from tests.reference.test_invariants import COST, random_engine, random_workload

A, B, C, D = 0, 0.5, 1.5, 3.5  # the requests of most cases here, by their arrivals


class Watch:
    """By priority; counts its questions in its memories, and keeps what it was shown."""

    def __init__(self, **settings):
        self.seen = []  # (replica's row, memory before, requests' rows by arrival)
        self.ranking = Ranking("watch", self.rank, memory_size=1, **settings)

    def rank(self, requests, replica, parameters, memory, keys):
        rows = {float(row[ARRIVAL_S]): row.copy() for row in requests}
        self.seen.append((replica.copy(), memory.copy(), rows))
        keys[:] = requests[:, PRIORITY]
        requests[:, MEMORY] += 1
        requests[:, ARRIVAL_S] = -1  # nobody takes notice
        memory[0] += 1

    def of_requests(self, column):
        """What was shown of each request, question by question."""
        return [{arrival_s: row[column] for arrival_s, row in rows.items()} for _, _, rows in self.seen]

    def of_replica(self, column):
        return [float(row[column]) for row, _, _ in self.seen]

    @property
    def memories(self):
        return [float(memory[0]) for _, memory, _ in self.seen]


def run_watched(requests, *sizes, every_iteration=False, columns=None, **settings):
    watch = Watch(every_iteration=every_iteration)
    engine = Engine(*sizes, scheduler="ranked", **settings)
    return run(requests, engine, ranking=watch.ranking, **(columns or {})), watch


@pytest.mark.parametrize(("every_iteration", "times"), [(False, [0, 1]), (True, [0, 1, 2, 3])])
def test_it_is_not_asked_where_all_decode(every_iteration, times):
    # Asked while A's 4 tokens are prefilled in two chunks.
    result, watch = run_watched([(0, 4, 3)], 2, 2, 1, 9, every_iteration=every_iteration)
    assert batches(result) == ["A2@0", "A2@2", "a@4", "a@5"]
    assert watch.of_replica(NOW_S) == times


def test_it_is_asked_when_blocks_are_lacking_or_somebody_is_paused():
    # 5 blocks of 1. At 1 two lack one and one is free; at 2 B has been paused.
    result, watch = run_watched([(A, 2, 2), (B - 0.5, 2, 2)], 8, 4, 1, 5, columns={"priority": [0, 1]})
    assert batches(result) == ["A2@0 B2@0", "a@2", "b@2"]
    assert watch.of_replica(NOW_S) == [0, 1, 2]


def test_what_it_is_shown():
    # 2 blocks of 2, one seat, 0.25 s a block. At 2.25 A is swapped out and B has been prefilled in 1.25 s.
    columns = {
        "priority": [1, 0],
        "tenant": [7, 3],
        "slo_class": [1, 0],
        "slo_classes": (SloClass("quick", 0.5, 0.125), SloClass("slow", math.inf, 2.0)),
        "predicted": [6.0, 5.5],
    }
    swap = {"preemption": "swap", "swap_blocks": 4, "swap_s_per_block": 0.25}
    requests = [(A, 2, 3), (B, 3, 2)]
    result, watch = run_watched(requests, 8, 1, 2, 2, columns=columns, **swap)
    assert batches(result) == ["A2@0", "B3@0", "b@3", "a@2", "a@3"]
    replica, _, rows = watch.seen[2]
    assert replica.tolist() == [2.25, 1.25, 0, 2, 2, 8, 1]
    assert rows[A].tolist() == [A, 2, 1, 2, 6, 5, 1, 7, math.inf, 2, 1, 0, 2, 0, 0]
    assert rows[B].tolist() == [B, 3, 1, 3, 5.5, 4.5, 0, 3, 0.5, 0.125, 2, 1, 1, 0, 0]
    _, _, rows = watch.seen[1]  # at 1, before anything is done
    assert [rows[A][PLACE], rows[B][PLACE], rows[A][SERVED], rows[B][SERVED]] == [2, 0, 1, 0]


def test_predictions_of_running_requests_are_refined():
    # q = 0.5: c = 8, and the error of 12 - 8 is halved where c g / o = 3, with g = 3.
    columns = {"predicted": [12.0], "prediction_refinement": 0.5}
    _, watch = run_watched([(0, 1, 8)], 8, 1, 1, 9, every_iteration=True, columns=columns)
    remaining = [rows[0.0] for rows in watch.of_requests(PREDICTED_REMAINING_TOKENS)]
    assert [remaining[0], remaining[3]] == [12, 7]


def test_who_has_left_is_shown_once_more():
    # A finishes at 1, B is cancelled at 2.75 and leaves at 3, with 3 tokens. Asked at 0, 1, 2 (C) and 4 (D).
    columns = {"cancel_after_s": [99, 2.25, 99, 99]}
    requests = [(A, 2, 1), (B, 2, 9), (C, 2, 4), (D, 2, 1)]
    result, watch = run_watched(requests, 8, 4, 1, 40, columns=columns)
    assert batches(result) == ["A2@0", "B2@0", "b@2 C2@0", "c@2", "c@3 D2@0", "c@4"]
    assert watch.of_replica(NOW_S) == [0, 1, 2, 4]
    assert watch.of_requests(PLACE) == [{A: 0}, {A: 3, B: 0}, {B: 2, C: 0}, {B: 3, C: 2, D: 0}]
    assert watch.of_requests(GENERATED_TOKENS) == [{A: 0}, {A: 1, B: 0}, {B: 1, C: 0}, {B: 2, C: 2, D: 0}]
    assert watch.of_requests(SERVED) == [{A: 0}, {A: 1, B: 0}, {B: 1, C: 0}, {B: 0, C: 1, D: 0}]


def test_who_has_never_been_shown_is_not_when_it_has_left():
    # B comes and leaves within A's prefill.
    columns = {"cancel_after_s": [99, 0.25, 99]}
    _, watch = run_watched([(A, 2, 4), (B, 2, 9), (C, 2, 1)], 8, 4, 1, 40, columns=columns)
    assert watch.of_requests(PLACE) == [{A: 0}, {A: 2, C: 0}]


def test_its_memory_of_a_request_outlasts_a_preemption():
    # 2 blocks of 2, one seat. [1, 2] A is preempted for B.
    columns = {"priority": [1, 0]}
    result, watch = run_watched([(A, 2, 3), (B, 3, 2)], 8, 1, 2, 2, columns=columns)
    assert result.preemptions.tolist() == [1, 0]
    assert watch.of_requests(MEMORY) == [{A: 0}, {A: 1, B: 0}, {A: 2, B: 1}, {A: 3, B: 2}]
    assert watch.memories == [0, 1, 2, 3]


def test_failure_clears_its_memories():
    # A fails at 1.5, in its second iteration, and starts anew at 2.
    watch = Watch(every_iteration=True)
    replicas = [ReplicaSpec(Engine(8, 4, 1, 9, scheduler="ranked"), ONE_SECOND)]
    result = run_fleet([(A, 2, 2)], replicas, ranking=watch.ranking, failures=[Failure(0, 1.5, 2.0)])
    assert result.finish_s.tolist() == [4]
    assert watch.of_replica(NOW_S) == [0, 1, 2, 3]
    assert watch.of_replica(LAST_ITERATION_S) == [0, 1, 0, 1]
    assert watch.memories == [0, 1, 0, 1]
    assert watch.of_requests(MEMORY) == [{A: 0}, {A: 1}, {A: 0}, {A: 1}]


def test_every_replica_has_its_own_memory():
    watch = Watch()
    replicas = [ReplicaSpec(Engine(8, 4, 1, 9, scheduler="ranked"), ONE_SECOND)] * 2
    run_fleet(
        [(A, 2, 1), (B, 2, 1), (C, 2, 1)],
        replicas,
        choose=lambda rows, request: int(request[2] == 0.5),  # B
        ranking=watch.ranking,
    )
    assert [sorted(rows) for _, _, rows in watch.seen] == [[A], [B], [A, C]]
    assert watch.memories == [0, 0, 1]


def test_queue_rankings_are_asked_about_one_request_when_it_enters_the_queue():
    # 4 blocks of 2. [2, 3] B lacks a block, has the greater key and is preempted, with 2 generated tokens.
    watch = Watch(ranks="queue")
    columns = {"priority": [0, 1, 2], "predicted": [5.0, 7.0, 1.0]}
    requests = [(A, 2, 5), (0.25, 3, 3), (2.5, 1, 1)]
    engine = Engine(8, 2, 2, 4, order="rank")
    result = run(requests, engine, ranking=watch.ranking, **columns)
    assert batches(result) == ["A2@0", "a@2 B3@0", "a@3 b@3", "a@4", "a@5", "B5@0 C1@0"]
    assert [sorted(rows) for _, _, rows in watch.seen] == [[0], [0.25], [2.5], [0.25]]
    assert watch.of_replica(NOW_S) == [0, 0.25, 2.5, 3]
    assert watch.memories == [0, 1, 2, 3]
    replica, _, rows = watch.seen[3]
    assert replica.tolist() == [3, 0, 0, 4, 2, 8, 2]
    assert rows[0.25].tolist() == [0.25, 3, 2, 0, 7, 5, 1, 0, math.inf, math.inf, 0, 0, 1, 0, 0]


def test_kv_that_is_brought_along_is_shown_as_computed():
    # A is prefilled on replica 0, and enters the queue of replica 1 at 1 with its 3 prompt tokens computed.
    watch = Watch(ranks="queue")
    engine = Engine(8, 4, 1, 9, order="rank")
    replicas = [ReplicaSpec(engine, ONE_SECOND, role) for role in ("prefill", "decode")]
    result = run_fleet([(A, 3, 3)], replicas, ranking=watch.ranking)
    assert batches(result, 1) == ["a@3", "a@4"]
    assert watch.of_replica(NOW_S) == [0, 1]
    assert [rows[A][: PLACE + 1].tolist() for _, _, rows in watch.seen] == [
        [A, 3, 0, 0, 0, 0, 0, 0, math.inf, math.inf, 0],
        [A, 3, 1, 3, 0, -1, 0, 0, math.inf, math.inf, 0],
    ]
    assert watch.of_requests(MEMORY) == [{A: 0}, {A: 0}]


@pytest.mark.parametrize("scheduler", ["vllm_v1", "sarathi", "vllm_v0", "orca", "lightllm", "static"])
def test_ranking_by_priority_is_the_order_of_priority(scheduler):
    ranking = by(lambda row: row[PRIORITY], "queue")
    orders_differ = 0
    for seed in range(6):
        workload = random_workload(np.random.default_rng(seed), 25)
        results = []
        for order in ("priority", "rank", "fcfs"):
            engine = random_engine(np.random.default_rng(seed), scheduler, order=order)
            results.append(
                simulate_fleet(
                    workload, lambda *_: 0, replicas=[ReplicaSpec(engine, COST)], ranking=ranking
                ).iterations
            )
        assert results[0] == results[1]
        orders_differ += results[0] != results[2]
    assert orders_differ > 0


def test_multi_bin_with_one_bin_is_static():
    for seed in range(6):
        workload = random_workload(np.random.default_rng(seed), 25)
        results = []
        for scheduler, order in (("static", "fcfs"), ("multi_bin", "rank")):
            engine = random_engine(np.random.default_rng(seed), scheduler, order=order)
            results.append(
                simulate_fleet(
                    workload,
                    lambda *_: 0,
                    replicas=[ReplicaSpec(engine, COST)],
                    ranking=by(lambda row: 0.0, "queue"),
                ).iterations
            )
        assert results[0] == results[1]


@compiled_ranking
def by_prompt(requests, replica, parameters, memory, keys):
    keys[:] = parameters[0] * requests[:, PROMPT_TOKENS]


def test_compiled_rankings_are_called_as_python():
    requests = [(0, 3, 1), (0, 2, 1), (0, 5, 1)]
    engine = Engine(8, 1, 1, 9, order="rank")
    for sign, expected in ((1.0, ["B2@0", "A3@0", "C5@0"]), (-1.0, ["C5@0", "A3@0", "B2@0"])):
        ranking = Ranking("by_prompt", by_prompt, ranks="queue", parameters=np.array([sign]))
        assert batches(run(requests, engine, ranking=ranking)) == expected


def test_rows_without_classes_and_tenants():
    seen = []
    ranking = by(lambda row: seen.append([row[TENANT], row[TTFT_SLO_S]]) or 0.0, "queue")
    run([(0, 3, 1)], Engine(8, 1, 1, 9, order="rank"), ranking=ranking)
    assert seen == [[0, math.inf]]


@pytest.mark.parametrize(
    ("settings", "ranking", "message"),
    [
        ({"order": "rank"}, None, "needs a ranking with ranks queue, given is none"),
        ({"scheduler": "ranked"}, None, "needs a ranking with ranks batch, given is none"),
        ({"scheduler": "ranked"}, by(lambda row: 0.0, "queue"), "ranks batch, given is one with ranks queue"),
        ({"order": "rank"}, by(lambda row: 0.0), "ranks queue, given is one with ranks batch"),
        ({"order": "rank"}, by(lambda row: math.nan, "queue"), "scheduler by: key nan of request 0"),
        ({"scheduler": "ranked"}, Ranking("idle", lambda *_: None), "scheduler idle: key nan of request 0"),
    ],
)
def test_rankings_that_are_refused(settings, ranking, message):
    with pytest.raises(InputError, match=message):
        run([(0, 2, 1)], Engine(8, 4, 1, 9, **settings), ranking=ranking)


def test_sglang_cannot_be_ordered_by_a_ranking():
    with pytest.raises(InputError, match="order: rank, not with scheduler sglang"):
        Engine(8, 4, 1, 9, scheduler="sglang", order="rank")
