"""Sessions: turns, times to think, prompts that grow, and the rate of them all."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.config import ClientsConfig
from servegym.envs.scenario.sessions import with_sessions
from servegym.envs.workloads import Workload

COUNT = 20_000
PLAIN = Workload("many", np.arange(COUNT) * 0.1, np.arange(COUNT) % 7 + 1, np.arange(COUNT) % 5 + 1)
SMALL = ("scenario.episode.requests=200", "scenario.workload.clients.mean_think_s=0.5")


def everything(workload: Workload) -> np.ndarray:
    return np.ones(workload.num_requests, np.bool_)


def drawn(seed: int = 0, fits=everything, **settings) -> Workload:
    return with_sessions(PLAIN, ClientsConfig(**settings), fits, np.random.SeedSequence(seed))


def turns_of(workload: Workload) -> np.ndarray:
    return np.bincount(workload.session_id)


def test_one_turn_is_no_session() -> None:
    assert drawn(session_turns=1.0) is PLAIN


def test_turns_are_geometric_and_thinking_exponential() -> None:
    workload = drawn(session_turns=3.0, mean_think_s=5.0)
    turns = turns_of(workload)
    assert turns.mean() == pytest.approx(3.0, rel=0.03)
    for number in range(1, 5):
        assert np.mean(turns == number) == pytest.approx((2 / 3) ** (number - 1) / 3, abs=0.015)
    thought_s = workload.think_s[workload.parent >= 0]
    assert thought_s.mean() == pytest.approx(5.0, rel=0.03)
    assert thought_s.std() == pytest.approx(5.0, rel=0.05)


def test_a_follow_up_takes_a_place_of_the_stream_after_its_time_to_think() -> None:
    """No request is added, the arrivals are the stream's, and no place is taken much later than it is due."""
    workload = drawn(session_turns=3.0, mean_think_s=5.0)
    np.testing.assert_array_equal(workload.arrival_s, PLAIN.arrival_s)
    follows = np.flatnonzero(workload.parent >= 0)
    late_s = workload.arrival_s[follows] - workload.arrival_s[workload.parent[follows]]
    late_s -= workload.think_s[follows]
    assert late_s.min() >= -1e-9
    assert late_s.mean() < 0.3  # a few places
    assert len(np.unique(workload.parent[follows])) == len(follows)  # one follow-up each


def test_prompts_repeat_all_that_was_said() -> None:
    workload = drawn(session_turns=3.0)
    parent = workload.parent
    history = np.where(parent >= 0, (workload.prompt_tokens + workload.output_tokens)[parent], 0)
    np.testing.assert_array_equal(workload.prompt_tokens - history, PLAIN.prompt_tokens)
    np.testing.assert_array_equal(workload.output_tokens, PLAIN.output_tokens)
    np.testing.assert_array_equal(np.unique(workload.session_id[parent < 0]), np.unique(workload.session_id))
    assert (workload.session_id == workload.session_id[workload.first_of_chain()]).all()


def test_what_would_fit_nowhere_starts_anew() -> None:
    """Sessions up to 30 tokens; more of them than with room for all."""

    def fits(workload: Workload) -> np.ndarray:
        return workload.prompt_tokens + workload.output_tokens <= 30

    workload, free = drawn(fits=fits, session_turns=8.0), drawn(session_turns=8.0)
    assert fits(workload).all() and not fits(free).all()
    cut = (workload.parent < 0) & (free.parent >= 0)
    assert cut.any()
    np.testing.assert_array_equal(workload.parent[~cut], free.parent[~cut])


def test_each_seed_has_its_own() -> None:
    same, other = (drawn(seed, session_turns=2.0).parent for seed in (0, 1))
    np.testing.assert_array_equal(drawn(session_turns=2.0).parent, same)
    assert not np.array_equal(same, other)


def test_out_of_range_is_refused() -> None:
    for key, value in (("session_turns", 0.5), ("mean_think_s", 0.0)):
        with pytest.raises(InputError, match=f"scenario.workload.clients.{key} = {value}: must be"):
            ClientsConfig(**{key: value})


def test_session_scenario_keeps_its_rate_and_finds_prefixes() -> None:
    """Turns come after answers and times to think; where sessions stay, prompts are found in the cache."""
    scenario = load_scenario("sessions_8xh100")
    assert scenario.extra == "scenario.workload.clients.session_turns"
    workload = scenario.traffic.test_workload(0)
    found = {}
    for name in ("round_robin", "session_affinity"):
        results = scenario.simulate(workload, make_router(name))
        assert results.finished.all()
        follows = np.flatnonzero(workload.parent >= 0)
        answered_s = results.finish_s[workload.parent[follows]]
        np.testing.assert_allclose(results.arrival_s[follows], answered_s + workload.think_s[follows])
        found[name] = results.hit_tokens.sum() / workload.prompt_tokens.sum()
    assert found["session_affinity"] > 2 * found["round_robin"], found
    ordered_s = np.sort(results.arrival_s)
    rate_rps = np.diff(np.searchsorted(ordered_s, [20.0, 100.0])) / 80.0  # of the 107 s of the stream
    assert rate_rps == pytest.approx(scenario.config.workload.rate_rps, rel=0.15)


def test_sessions_in_the_environment() -> None:
    """Every turn is a decision, and the return is minus the sum of TTFT."""
    env = RoutingEnv(load_scenario("sessions_8xh100", SMALL))
    env.reset(seed=0)
    total, terminated, decisions = 0.0, False, 0
    while not terminated:
        _, reward, terminated, _, info = env.step(decisions % 8)
        total, decisions = total + reward, decisions + 1
    assert decisions == info["episode_metrics"]["num_finished"] == 200
    assert -total == pytest.approx(info["episode_metrics"]["mean_ttft_s"] * 200, rel=1e-9)


def test_traces_with_contents_of_their_own_are_refused(tmp_path) -> None:
    trace = tmp_path / "trace.jsonl"
    row = '{"timestamp": %d, "input_length": 600, "output_length": 5, "hash_ids": [%d, %d]}\n'
    trace.write_text("".join(row % (second * 1000, 2 * second, 2 * second + 1) for second in range(40)))
    words = (f"scenario.workload.trace={trace}", "scenario.workload.test_s=10")
    load_scenario("mooncake_conv_8xh100", words)
    with pytest.raises(
        InputError, match=r"clients.session_turns = 2.0: must be 1, as the trace has prefix_ids"
    ):
        load_scenario("mooncake_conv_8xh100", (*words, "scenario.workload.clients.session_turns=2.0"))
