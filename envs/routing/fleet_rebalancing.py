"""The rebalancer of episodes on fleets whose requests migrate: a part of the fleet, not of what is learnt."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.cluster.rebalancing import rebalance, write_rows_to_rebalance
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.rebalancer import KEEP, Rebalancer
from servegym.envs.sim.llm.router import random_state
from servegym.envs.sim.llm.view import ROUTER_REPLICA_FEATURES


class EpisodeRebalancers:
    """A rule with a memory and a random stream for each of K episodes: those of `simulate_fleet`, seed 0."""

    def __init__(self, rule: Rebalancer, num_episodes: int, num_replicas: int) -> None:
        self._rule = rule
        self._memory = np.zeros((num_episodes, rule.memory_size))
        self._random = np.zeros((num_episodes, 1), np.uint64)
        self._rows = np.zeros((num_replicas, ROUTER_REPLICA_FEATURES))
        self._moves = np.zeros((num_replicas, 2), np.int64)
        self._orders = np.zeros(num_replicas, np.int64)

    def begin(self, episode_id: int) -> None:
        """Forgets everything about an episode."""
        self._memory[episode_id] = 0.0
        self._random[episode_id] = random_state(np.random.SeedSequence(0).spawn(1)[0])

    def rebalance(self, episode_id: int, cluster: Cluster) -> None:
        """Does what the rule says. InputError for a move of no replica and for an unknown order."""
        rule, moves, orders = self._rule, self._moves, self._orders
        orders[:] = KEEP
        _write(cluster, self._rows)
        memory, random = self._memory[episode_id], self._random[episode_id]
        count = rule.choose(self._rows, rule.parameters, memory, random, moves, orders)
        if not _rebalance(cluster, moves, count, orders):
            raise rule.refusal(moves, count, orders)


@jit
def _write(cluster: Cluster, rows: np.ndarray) -> None:
    write_rows_to_rebalance(cluster, rows)


@jit
def _rebalance(cluster: Cluster, moves: np.ndarray, count: int, orders: np.ndarray) -> bool:
    return rebalance(cluster, moves, count, orders)
