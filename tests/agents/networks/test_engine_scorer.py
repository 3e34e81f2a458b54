"""The network of a scheduler: legal by itself, and rows and empty rows mean nothing to it."""

import numpy as np
import pytest
import torch

from servegym.agents.batching import ENGINE, BoundedShortestFirst
from servegym.agents.networks.action_network import ILLEGAL_LOGIT, as_tensors
from servegym.agents.networks.engine_scorer import EngineScorer
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.envs.batching.observation import Observation
from servegym.envs.batching.vector import BatchingVectorEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.decision_view import ENGINE_FEATURES, ROW_FEATURES
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, VISIBLE

SCENARIO = load_scenario(
    "generated_1xh100",
    (
        "scenario.engine.max_num_seqs=12",
        "scenario.engine.num_kv_blocks=1100",
        "scenario.workload.rate_rps=15",
        "scenario.workload.prediction_error=0.5",
        "scenario.episode.requests=60",
    ),
)


@pytest.fixture(scope="module")
def network() -> EngineScorer:
    torch.manual_seed(0)
    network = EngineScorer(16, 2)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.3)  # scores that differ
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def seen() -> tuple[Observation, np.ndarray]:
    """What comes up under random choices, (N, ..), and what was legal, (N, 68)."""
    env, random = BatchingVectorEnv(4, SCENARIO), np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    observations, masks = [], []
    for _ in range(400):
        observations.append(observation)
        masks.append(env.action_masks())
        chances = random.random(masks[-1].shape) * masks[-1]
        chances[:, VISIBLE:NUM_ROWS] *= 0.5  # not preempting all the time
        observation, *_ = env.step(chances.argmax(axis=1))
    stacked = {name: np.concatenate([each[name] for each in observations]) for name in observation}
    return stacked, np.concatenate(masks)


def test_it_chooses_what_is_legal_without_masks(
    network: EngineScorer, seen: tuple[Observation, np.ndarray]
) -> None:
    observation, masks = seen
    logits = network.scores(as_tensors(observation))[0].numpy()
    possible = logits > ILLEGAL_LOGIT / 2
    assert logits.shape == (len(masks), NUM_CHOICES)
    assert (masks | ~possible).all() and possible.any(axis=1).all()
    assert not possible[:, VISIBLE : NUM_ROWS + 1].any()  # to preempt, and to start without prefills
    first_fits = BoundedShortestFirst().act(observation) < NUM_ROWS
    assert (possible[:, NUM_ROWS:].any(axis=1) == ~first_fits).all()
    assert (masks & ~possible)[:, :VISIBLE].any(axis=1).mean() > 0.1  # to admit who has still to wait
    chosen = NetworkPolicy(network).act(observation)
    assert masks[np.arange(len(masks)), chosen].all()
    assert logits[possible].std() > 0.1


def test_untrained_it_is_the_rule(seen: tuple[Observation, np.ndarray]) -> None:
    torch.manual_seed(0)
    chosen = NetworkPolicy(EngineScorer(16, 2)).act(seen[0])
    assert (chosen == BoundedShortestFirst().act(seen[0])).all()


def test_nobody_is_put_off_for_ever(network: EngineScorer) -> None:
    """Of a long job that waits for 10 s and a short one the latter may go first if due about first."""
    for since_s, may_be_first in ((0.5, False), (2.5, True)):
        requests = torch.zeros((1, NUM_ROWS, ROW_FEATURES))
        requests[0, 0] = torch.tensor([1, 0, 0, 100, 100, 0, 900, 0, 10.0, 0, 1, 1])
        requests[0, 1] = torch.tensor([1, 0, 0, 100, 100, 0, 150, 0, since_s, 0, 1, 1])
        logits = network.scores({"engine": torch.ones((1, ENGINE_FEATURES)), "requests": requests})[0]
        assert bool(logits[0, 0] > ILLEGAL_LOGIT / 2)  # due 0.9 * 10 s after its arrival
        assert bool(logits[0, 1] > ILLEGAL_LOGIT / 2) == may_be_first  # 0.9 * 10 s * 180 / 750 = 2.16 s


def test_in_a_hurry_prefills_get_all_of_the_budget(network: EngineScorer) -> None:
    engine, requests = torch.ones((2, ENGINE_FEATURES)), torch.zeros((2, NUM_ROWS, ROW_FEATURES))
    engine[:, ENGINE["kv_total_blocks"]] = 100.0
    requests[0, 0] = torch.tensor([1, 0, 0, 100, 100, 0, 900, 0, 0.7, 0, 1, 0])
    requests[1, 0] = torch.tensor([1, 0, 0, 100, 100, 0, 900, 0, 0.9, 0, 1, 0])
    possible = network.scores({"engine": engine, "requests": requests})[0][:, NUM_ROWS:] > ILLEGAL_LOGIT / 2
    assert possible.tolist() == [[False, True, True, True], [False, False, False, True]]


def test_scores_follow_the_rows(network: EngineScorer, seen: tuple[Observation, np.ndarray]) -> None:
    observation, _ = seen
    waiting, running = np.random.default_rng(1).permutation((np.arange(VISIBLE), np.arange(VISIBLE)), axis=1)
    order = np.concatenate([waiting, VISIBLE + running])
    permuted = {**observation, "requests": observation["requests"][:, order]}
    logits, values = network.scores(as_tensors(observation))
    permuted_logits, permuted_values = network.scores(as_tensors(permuted))
    torch.testing.assert_close(permuted_logits[:, :NUM_ROWS], logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(permuted_logits[:, NUM_ROWS:], logits[:, NUM_ROWS:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(permuted_values, values, rtol=1e-4, atol=1e-4)


def test_the_best_row_is_scored_as_what_is_done_however_many_there_are(network: EngineScorer) -> None:
    engine = torch.zeros(2, 13)
    engine[:, 0] = 3.0
    requests = torch.zeros(2, NUM_ROWS, 12)
    due_first = torch.tensor([1.0, 0, 0, 700, 700, 0, 50, 0, 0.5, 0, 44, 0])  # and does not fit
    another = torch.tensor([1.0, 0, 0, 700, 700, 0, 52, 0, 0.5, 0, 44, 1])
    requests[0, :4] = torch.stack([due_first, another, another, due_first])
    requests[1, :2] = torch.stack([due_first, another])
    logits = network(engine, requests)[0]
    torch.testing.assert_close(logits[0, 1], logits[0, 2])
    starts = logits[:, NUM_ROWS + 1 :]
    assert (starts > ILLEGAL_LOGIT / 2).all()
    torch.testing.assert_close(starts[0] - logits[0, 1], starts[1] - logits[1, 1])
    assert (logits[:, NUM_ROWS] == ILLEGAL_LOGIT).all()
