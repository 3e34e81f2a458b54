"""The random cases are possible, repeatable, and hold what they promise."""

from tests.witness.cases import Case, kv_blocks, make_cases


def test_a_case_depends_on_the_seed_and_its_number_alone() -> None:
    assert make_cases(3, seed=5) == make_cases(7, seed=5)[:3]
    assert make_cases(3, seed=5) != make_cases(3, seed=6)


def test_every_request_fits_alone() -> None:
    for case in make_cases(100, seed=1):
        settings = case["settings"]
        assert settings["max_num_seqs"] <= settings["max_num_batched_tokens"]
        for request in case["requests"]:
            assert kv_blocks(request, settings["block_size"]) <= settings["num_kv_blocks"]


def test_requests_come_in_order_and_follow_ups_continue_their_parents() -> None:
    num_follow_ups = 0
    for case in make_cases(100, seed=1):
        requests = case["requests"]
        steps = [request["arrival_step"] for request in requests]
        assert steps == sorted(steps)
        for place, request in enumerate(requests):
            if request["parent"] >= 0:
                num_follow_ups += 1
                assert request["parent"] < place
                parent = requests[request["parent"]]
                history = parent["prompt"] + parent["output"]
                assert request["prompt"][: len(history)] == history
                assert len(request["prompt"]) > len(history)
    assert num_follow_ups > 100


def test_no_output_is_anybody_elses() -> None:
    for case in make_cases(20, seed=1):
        outputs = [token for request in case["requests"] for token in request["output"]]
        assert len(set(outputs)) == len(outputs)
        prompts = {token for request in case["requests"] for token in request["prompt"]}
        if all(request["parent"] < 0 for request in case["requests"]):
            assert prompts.isdisjoint(outputs)


def test_prefixes_are_shared_on_two_levels() -> None:
    assert sum(_has_two_levels(case) for case in make_cases(50, seed=1)) > 10


def _has_two_levels(case: Case) -> bool:
    """Whether three prompts have a common beginning, and two of them a longer one."""
    prompts = [request["prompt"] for request in case["requests"] if request["parent"] < 0]
    common = {
        _common_length(prompts[i], prompts[j])
        for i in range(len(prompts))
        for j in range(i)
        if prompts[i] != prompts[j]
    }
    return len(common - {0}) >= 2


def _common_length(first: list[int], second: list[int]) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
