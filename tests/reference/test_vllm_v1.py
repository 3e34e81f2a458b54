"""vLLM's V1 engine: priorities, rankings, capped chunks and admission, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.ranking import GENERATED_TOKENS, PROMPT_TOKENS
from tests.reference.engine import Engine
from tests.reference.hand import ONE_SECOND, batches, by, kv_used, run, run_fleet
from tests.reference.settings import ReplicaSpec


def test_urgent_requests_are_admitted_first_and_the_least_urgent_is_preempted():
    # 4 blocks of 2. B before A in the queue. [3, 4] B needs a third block: A gives up its two.
    engine = Engine(8, 4, 2, 4, order="priority")
    result = run([(0, 2, 4), (0, 2, 4)], engine, priority=[1, 0])
    assert batches(result) == ["B2@0 A2@0", "b@2 a@2", "b@3 a@3", "b@4", "A5@0"]
    assert result.preemptions.tolist() == [1, 0]
    assert [p[:5] for p in result.preempted[0]] == [(3, 0, 0, 3, "recompute")]


def test_least_urgent_request_preempts_itself_and_those_behind_it_go_on():
    # [3, 4] A needs a third block and is the least urgent itself; B then takes it.
    engine = Engine(8, 4, 2, 4, order="priority")
    result = run([(0, 2, 4), (0.5, 3, 3)], engine, priority=[1, 0])
    assert batches(result) == ["A2@0", "a@2 B3@0", "a@3 b@3", "b@4", "A5@0"]


def test_victim_already_served_returns_its_tokens_to_the_budget():
    # 4 blocks of 4, budget 4. [3, 4] A is served with 1 token; B lacks a block and preempts A, which leaves
    # 4 - 1 tokens for C instead of 2.
    engine = Engine(4, 4, 4, 4, order="priority", reserve_full_prompt=False)
    result = run([(0, 4, 4), (0.5, 3, 4), (0.5, 8, 1)], engine, priority=[1, 0, 0])
    assert batches(result) == ["A4@0", "a@4 B3@0", "a@5 b@3 C2@0", "b@4 C3@2", "b@5 C3@5", "A4@0", "A3@4"]
    assert result.preemptions.tolist() == [1, 0, 0]


def test_first_of_the_least_urgent_is_preempted_also_when_it_was_served():
    # 3 blocks of 2; queue: A, C, then B. [1, 2] A needs a second block: B, the least urgent, is preempted.
    # C needs one too: A and C are equal in priority and arrival, and A is the first of them.
    engine = Engine(8, 4, 2, 3, order="priority")
    result = run([(0, 2, 2), (0, 2, 2), (0, 2, 2)], engine, priority=[0, 1, 0])
    assert batches(result) == ["A2@0 C2@0 B2@0", "c@2", "A3@0", "B3@0"]
    assert [(p.request, p.iteration) for p in result.preempted[0]] == [(1, 1), (0, 1)]


def test_ranking_orders_the_queue():
    engine = Engine(8, 1, 4, 9, order="rank")
    ranking = by(lambda row: row[PROMPT_TOKENS], "queue")
    result = run([(0, 5, 1), (0, 2, 1), (0, 5, 1), (0.5, 3, 1)], engine, ranking=ranking)
    assert batches(result) == ["B2@0", "D3@0", "A5@0", "C5@0"]


def test_rank_of_a_preempted_request_is_computed_again():
    # Keys: 2, 3 and 1. [2, 3] B lacks a block, has the greatest and is preempted with 2 generated tokens:
    # with a key of -1 now it comes to stand before C.
    engine = Engine(8, 2, 2, 4, order="rank")
    ranking = by(lambda row: row[PROMPT_TOKENS] - 2 * row[GENERATED_TOKENS], "queue")
    result = run([(0, 2, 5), (0, 3, 3), (0.5, 1, 1)], engine, ranking=ranking)
    assert batches(result) == ["A2@0 B3@0", "a@2 b@3", "a@3", "a@4", "a@5", "B5@0 C1@0"]


def test_threshold_caps_the_chunks_of_prompts_while_others_are_there():
    engine = Engine(8, 4, 4, 9, long_prefill_token_threshold=4)
    result = run([(0, 14, 1), (0, 3, 2)], engine)
    assert batches(result) == ["A4@0 B3@0", "A4@4 b@3", "A6@8"]


@pytest.mark.parametrize(
    ("reserve", "expected"),
    [(True, ["A1@0", "a@1", "B4@0", "B1@4"]), (False, ["A1@0 B3@0", "a@1", "B4@0", "B1@4"])],
)
def test_admission_wants_room_for_the_whole_prompt(reserve, expected):
    # 3 blocks of 2. A holds one, B needs 3 for its prompt, 2 for the first chunk.
    engine = Engine(4, 4, 2, 3, reserve_full_prompt=reserve)
    assert batches(run([(0, 1, 2), (0, 5, 1)], engine)) == expected


def test_room_for_the_whole_prompt_is_not_set_aside():
    # 6 blocks of 2, chunks of 2. Both prompts see 4 free blocks, and collide in [3, 4].
    engine = Engine(4, 4, 2, 6, long_prefill_token_threshold=2)
    result = run([(0, 8, 1), (0, 8, 1)], engine)
    assert batches(result) == ["A2@0 B2@0", "A2@2 B2@2", "A2@4 B2@4", "A2@6", "B4@0", "B4@4"]
    assert kv_used(result) == [2, 4, 6, 4, 2, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "fifo"}, "scheduler: 'fifo'"),
        ({"order": "random"}, "order: 'random'"),
        ({"preemption": "kill"}, "preemption: 'kill'"),
        ({"watermark": 1.0, "scheduler": "sarathi"}, "watermark: 1.0"),
        ({"watermark": 0.1, "scheduler": "sglang"}, "watermark: 0.1 with sglang"),
        ({"prefix_caching": True, "scheduler": "orca", "max_model_len": 8}, "prefix_caching: not with"),
        ({"scheduler": "orca"}, "max_model_len: orca"),
        ({"reserved_output_share": 1.5}, "reserved_output_share: 1.5"),
        ({"reserved_output_share": 0.5, "prefix_caching": True}, "reserved_output_share: only"),
        ({"reserved_output_share": 0.5, "scheduler": "sarathi"}, "reserved_output_share: only"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Engine(8, 4, 4, 9, **settings)


A_B_C = [(0, 2, 5), (0, 2, 5), (0, 2, 5)]  # 6 blocks of 1 each at the end


@pytest.mark.parametrize(
    ("share", "preemptions", "expected"),
    [
        # 8 blocks. All three are admitted. [1, 2] C lacks a block, [3, 4] A lacks B's, [6, 7] B again C's.
        (0.0, [0, 1, 2], ["A2@0 B2@0 C2@0", "a@2 b@2", "a@3 b@3", "a@4", "a@5", "B5@0 C3@0", "b@5"]),
        # 2 + 2 blocks each: two fill the cache. [3, 4] A lacks one, and B is preempted with 5 known tokens.
        (0.5, [0, 1, 0], ["A2@0 B2@0", "a@2 b@2", "a@3 b@3", "a@4", "a@5", "B5@0", "b@5", "C2@0"]),
        # 2 + 4 blocks each: one after the other.
        (1.0, [0, 0, 0], ["A2@0", "a@2", "a@3", "a@4", "a@5", "B2@0", "b@2"]),
    ],
)
def test_admission_sets_aside_a_share_of_the_output_limits(share, preemptions, expected):
    result = run(A_B_C, Engine(8, 4, 1, 8, reserved_output_share=share))
    assert batches(result)[: len(expected)] == expected
    assert result.preemptions.tolist() == preemptions


def test_what_is_set_aside_leaves_the_watermark_free():
    # 2 + 2 blocks each; 10 blocks, 2 of them the watermark: A and B, but not C.
    engine = Engine(8, 4, 1, 10, reserved_output_share=0.5, watermark=0.2)
    assert batches(run(A_B_C, engine))[:2] == ["A2@0 B2@0", "a@2 b@2"]


def test_watermark_stays_free_at_admission():
    # 10 blocks, 3 the watermark: B's 4 are not to be had beside A's 4 or 5.
    engine = Engine(8, 4, 1, 10, watermark=0.3)
    assert batches(run([(0, 4, 2), (0, 4, 1)], engine)) == ["A4@0", "a@4", "B4@0"]


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"watermark": 0.3}, 9),  # 7 and 2
        ({"reserved_output_share": 0.5}, 9),  # 4 + 5
        ({"reserved_output_share": 0.1, "watermark": 0.3}, 9),  # 7 in the end, more than 4 + 1; and 2
    ],
)
def test_request_that_could_never_be_admitted_is_refused(settings, needed):
    run([(0, 4, 4)], Engine(8, 4, 1, 8), max_output_tokens=[10])
    with pytest.raises(InputError, match=f"may need {needed} KV blocks of 8"):
        run([(0, 4, 4)], Engine(8, 4, 1, 8, **settings), max_output_tokens=[10])


def test_replica_that_only_prefills_sets_nothing_aside():
    # A's limit of 5 tokens makes 7 blocks; where it prefills there are 4.
    replicas = [
        ReplicaSpec(Engine(8, 4, 1, blocks, reserved_output_share=1.0), ONE_SECOND, role)
        for role, blocks in (("prefill", 4), ("decode", 7))
    ]
    result = run_fleet([(0, 3, 3)], replicas, columns={"max_output_tokens": [5]})
    assert batches(result, 0) == ["A3@0"]
    assert batches(result, 1) == ["a@3", "a@4"]
