"""A mixture of published routers: what it is, that it finds the best of them, and on after a kill."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from servegym.agents.heuristics import HeuristicPolicy, make_router
from servegym.agents.heuristics.advice import Advice
from servegym.agents.learners.config import ImproperConfig
from servegym.agents.learners.improper import build_improper
from servegym.agents.learners.rollouts import FastA2C
from servegym.agents.learners.training import resume, train
from servegym.agents.networks.action_network import as_tensors
from servegym.agents.networks.mixture import ATOMIC, RouterMixture
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.sim.llm import view
from tests.agents.learners.test_ppo import StopAt, weights
from tests.agents.queue_game import QueueGame

SETTING = np.array([0.005, 2e-5, 1e-4, 1e-8, 2048, 16, 200, 1, 0], np.float32)


class OneSetting(QueueGame):
    """The game of queues with the same setting at every decision, as an environment has it."""

    def _draw(self) -> dict[str, np.ndarray]:
        super()._draw()["setting"][:] = SETTING
        return self.now


class CostOf(OneSetting):
    """Costs nothing to do as one of the routers, and 1 to do anything else."""

    def __init__(self, router: str) -> None:
        super().__init__(num_envs=16, num_replicas=4)
        self.wanted = Advice([router])

    def step_wait(self) -> tuple[Any, ...]:
        rewards = np.where(self.actions == self.wanted(self.now)[:, 0], 0.0, -1.0)
        return self._draw(), rewards, np.ones(self.num_envs, bool), [{} for _ in range(self.num_envs)]


def seen(num_observations: int = 60) -> dict[str, np.ndarray]:
    observation = plausible_observation("router", np.random.default_rng(4), num_observations, 4)
    return observation | {"setting": np.tile(SETTING, (num_observations, 1))}


def test_advice_is_what_the_routers_do() -> None:
    observation = seen()
    clock = LinearClock(*(float(number) for number in SETTING[:4]))
    told = {"clock": clock, "token_budget": 2048, "block_size": 16}
    routers = [make_router("jsq"), make_router("predicted_ttft", **told)]
    policies = [HeuristicPolicy(router) for router in routers]
    for policy in policies:
        policy.reset(60, 0)
    due = np.stack([policy.act(observation) for policy in policies], axis=1)
    np.testing.assert_array_equal(Advice(["jsq", "predicted_ttft"])(observation), due)
    slow_decodes = np.array([1, 1, 1e3, 1, 1, 1, 1, 1, 1], np.float32)
    slow = observation | {"setting": observation["setting"] * slow_decodes}
    assert (Advice(["marginal_latency"])(slow) != Advice(["marginal_latency"])(observation)).any()
    with pytest.raises(InputError, match="round_robin: must choose by what is observed alone"):
        Advice(["round_robin"])


def test_probabilities_are_the_weights_of_who_advises() -> None:
    network = RouterMixture()
    with torch.no_grad():
        network.theta.copy_(torch.arange(len(ATOMIC)).float())
        logits, _ = network.scores(as_tensors(seen()))
    advice = Advice(ATOMIC)(seen())
    share = np.exp(np.arange(len(ATOMIC))) / np.exp(np.arange(len(ATOMIC))).sum()
    due = np.zeros((60, 4))
    for number in range(len(ATOMIC)):
        due[np.arange(60), advice[:, number]] += share[number]
    np.testing.assert_allclose(logits.exp().numpy(), due, atol=1e-6)
    assert (due[seen()["replicas"][..., view.AVAILABLE] == 0] == 0).all()
    assert network.weights()[ATOMIC[-1]] == pytest.approx(share[-1])


@pytest.mark.parametrize("network", ["mixture", "gated_mixture"])
def test_finds_the_router_that_costs_least(tmp_path: Path, network: str) -> None:
    game = CostOf("jsq")
    config = ImproperConfig(network=network, n_steps=16, learning_rate=0.1)
    model = train(build_improper(config, game, seed=0), 16 * 16 * 40, tmp_path)
    learnt = model.policy.network
    assert isinstance(learnt, RouterMixture)
    observation = seen(300)
    with torch.no_grad():
        logits, _ = learnt.scores(as_tensors(observation))
    wanted = Advice(["jsq"])(observation)[:, 0]
    assert logits.exp().numpy()[np.arange(300), wanted].mean() > 0.9
    if network == "mixture":
        assert max(learnt.weights(), key=learnt.weights().__getitem__) == "jsq"


def test_goes_on_after_a_kill_and_repeats_itself(tmp_path: Path) -> None:
    config = ImproperConfig(n_steps=16)

    def fresh() -> FastA2C:
        return build_improper(config, CostOf("jsq"), seed=0)

    with pytest.raises(InterruptedError):
        train(fresh(), 1024, tmp_path / "killed", [StopAt(600)], checkpoint_steps=256)
    resumed = resume(tmp_path / "killed", CostOf("jsq"), algorithm=FastA2C)
    assert resumed.num_timesteps == 1024
    first, again = (weights(train(fresh(), 1024, tmp_path / name)) for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], weights(resumed)[name]) for name in first)
