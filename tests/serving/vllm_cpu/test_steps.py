"""The same steps of the scheduler as in the group vllm, by this version of vLLM."""

from tests.serving.vllm.test_life_of_requests import (
    test_aborted_requests_leave_and_nobody_else_does,
    test_drafts_are_not_taken_from_anybody,
    test_requests_wait_for_their_grammars_and_nobody_waits_for_them,
)
from tests.serving.vllm.test_like_the_gym import recorded, test_the_scheduler_does_what_the_gym_does
from tests.serving.vllm.test_plans import (
    test_a_failing_policy_is_vllms_own_scheduler,
    test_random_plans_lose_no_token_and_no_block,
)
from tests.serving.vllm.test_start import test_this_version_has_what_is_needed

__all__ = [
    "recorded",
    "test_a_failing_policy_is_vllms_own_scheduler",
    "test_aborted_requests_leave_and_nobody_else_does",
    "test_drafts_are_not_taken_from_anybody",
    "test_random_plans_lose_no_token_and_no_block",
    "test_requests_wait_for_their_grammars_and_nobody_waits_for_them",
    "test_the_scheduler_does_what_the_gym_does",
    "test_this_version_has_what_is_needed",
]
