"""The network of both levels fits any fleet, decides what is due, and begins as the forecasts have it."""

import functools

import numpy as np
import pytest
import torch

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, as_tensors
from servegym.agents.networks.forecasts import FORECASTS, forecasts
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.seats import seat_waits_s
from servegym.agents.networks.two_level import TwoLevelNetwork
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, VISIBLE
from servegym.envs.sim.llm.view import PREDICTED_REMAINING_TOKENS, RUNNING, WAITING
from servegym.envs.two_level.observation import ROUTING, SCHEDULING, Observation
from servegym.envs.two_level.vector import TwoLevelVectorEnv

SHARE_0 = NUM_ROWS


@functools.cache
def seen_in(num_replicas: int) -> tuple[Observation, np.ndarray]:
    """What comes up under random choices on few seats and little memory, (N, ..), and what was legal."""
    scenario = load_scenario(
        "generated_8xh100",
        (
            f"scenario.fleet.replicas={num_replicas}",
            "scenario.engine.max_num_seqs=8",
            "scenario.engine.num_kv_blocks=1100",
            f"scenario.workload.rate_rps={12 * num_replicas}",
            "scenario.workload.prediction_error=0.5",
            "scenario.episode.requests=30",
            "scenario.objective.ttft_weight=0",
            "scenario.objective.latency_weight=1",
        ),
    )
    env, random = TwoLevelVectorEnv(4, scenario), np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    observations, masks = [], []
    for _ in range(80):
        observations.append(observation)
        masks.append(env.action_masks())
        chances = random.random(masks[-1].shape) * masks[-1]
        chances[:, num_replicas + NUM_ROWS // 2 : num_replicas + NUM_ROWS] *= (
            0.5  # not preempting all the time
        )
        observation, *_ = env.step(chances.argmax(axis=1))
    together = {name: np.concatenate([each[name] for each in observations]) for name in observation}
    return together, np.concatenate(masks)


@pytest.fixture(scope="module")
def network() -> TwoLevelNetwork:
    torch.manual_seed(0)
    network = TwoLevelNetwork(16, 2)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.3)  # scores that differ
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("num_replicas", [1, 3])
def test_it_chooses_what_is_legal_on_any_fleet(network: TwoLevelNetwork, num_replicas: int) -> None:
    observation, masks = seen_in(num_replicas)
    logits, values = network.scores(as_tensors(observation))
    possible = logits.numpy() > ILLEGAL_LOGIT / 2
    assert logits.shape == (len(masks), num_replicas + NUM_CHOICES) and values.shape == (len(masks),)
    assert (masks | ~possible).all() and possible.any(axis=1).all()
    assert not possible[:, num_replicas + VISIBLE : num_replicas + SHARE_0 + 1].any()  # nor preempted by it
    routing = observation["level"] == ROUTING
    assert routing.any() and (possible[:, :num_replicas].all(axis=1) == routing).all()
    chosen = NetworkPolicy(network).act(observation)
    assert masks[np.arange(len(masks)), chosen].all() and len(np.unique(chosen)) > 5


def test_numbers_of_replicas_mean_nothing(network: TwoLevelNetwork) -> None:
    observation, _ = seen_in(3)
    order = np.array([2, 0, 1])
    permuted = {**observation, "replicas": observation["replicas"][:, order]}
    logits, values = network.scores(as_tensors(observation))
    other_logits, other_values = network.scores(as_tensors(permuted))
    torch.testing.assert_close(other_logits[:, :3], logits[:, order], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(other_logits[:, 3:], logits[:, 3:])
    torch.testing.assert_close(other_values, values, rtol=1e-3, atol=1e-3)


def test_all_replicas_have_the_same_scheduler_and_the_value_hears_of_them_all(
    network: TwoLevelNetwork,
) -> None:
    observation, _ = seen_in(3)
    due = observation["level"] == SCHEDULING
    scheduling = {name: array[due] for name, array in observation.items()}
    elsewhere = {**scheduling, "replicas": 2 * scheduling["replicas"], "replica": scheduling["replica"] * 0}
    logits, values = network.scores(as_tensors(scheduling))
    other_logits, other_values = network.scores(as_tensors(elsewhere))
    torch.testing.assert_close(other_logits[:, 3:], logits[:, 3:])
    assert (other_values - values).abs().mean() > 0.01


def test_an_untrained_network_routes_as_the_forecasts_have_it() -> None:
    observation, _ = seen_in(3)
    torch.manual_seed(1)
    routing = {name: array[observation["level"] == ROUTING] for name, array in observation.items()}
    seen = as_tensors({name: routing[name] for name in ("request", "replicas", "setting")}).values()
    added_s = forecasts(*seen)[..., FORECASTS.index("marginal_latency_s")] + seat_waits_s(*seen)
    agreeing = NetworkPolicy(TwoLevelNetwork(16, 2)).act(routing) == added_s.argmin(dim=1).numpy()
    assert agreeing.mean() > 0.9


def test_waits_for_places_are_of_those_ahead_and_of_those_behind() -> None:
    """By hand: 4 run and 6 wait, of 50 predicted tokens each; a request of as many as the mean."""
    request = torch.tensor([[500.0, 100.0, 0.0, 0.0]])
    replicas = torch.zeros(1, 2, 15)
    replicas[..., 12] = 1.0  # speed
    replicas[0, 0, RUNNING], replicas[0, 0, WAITING] = 4, 6
    replicas[0, 0, PREDICTED_REMAINING_TOKENS] = 500.0
    setting = torch.tensor([[0.01, 0.0, 0.001, 0.0, 2048.0, 16.0, 100.0, 0.0, 1.0]])
    # half of the 6 go before it, 50 tokens each; half wait for its 100; 4 tokens at a time, 14 ms for each
    assert seat_waits_s(request, replicas, setting)[0].tolist() == pytest.approx(
        [(150 + 300) / 4 * 0.014, 0.0]
    )
