"""The rebalancer of episodes on fleets whose requests migrate: a part of the fleet, not of what is learnt."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.cluster.rebalancing import rebalance, write_rows_to_rebalance
from servegym.envs.sim.llm.cluster.state import Cluster
from servegym.envs.sim.llm.rebalancer import Rebalancer
from servegym.envs.sim.llm.router import random_state
from servegym.envs.sim.llm.view import REPLICA_FEATURES


class EpisodeRebalancers:
    """A rule with a memory and a random stream for each of K episodes: those of `simulate_fleet`, seed 0."""

    def __init__(self, rule: Rebalancer, num_episodes: int, num_replicas: int) -> None:
        self._rule = rule
        self._memory = np.zeros((num_episodes, rule.memory_size))
        self._random = np.zeros((num_episodes, 1), np.uint64)
        self._rows = np.zeros((num_replicas, REPLICA_FEATURES))
        self._moves = np.zeros((num_replicas, 2), np.int64)

    def begin(self, episode_id: int) -> None:
        """Forgets everything about an episode."""
        self._memory[episode_id] = 0.0
        self._random[episode_id] = random_state(np.random.SeedSequence(0).spawn(1)[0])

    def rebalance(self, episode_id: int, cluster: Cluster) -> None:
        """Lets requests migrate as the rule says. InputError where it names a replica that does not exist."""
        rule, moves = self._rule, self._moves
        _write(cluster, self._rows)
        memory, random = self._memory[episode_id], self._random[episode_id]
        count = rule.choose(self._rows, rule.parameters, memory, random, moves)
        if not _rebalance(cluster, moves, count):
            raise rule.refusal(moves, count)


@jit
def _write(cluster: Cluster, rows: np.ndarray) -> None:
    write_rows_to_rebalance(cluster, rows)


@jit
def _rebalance(cluster: Cluster, moves: np.ndarray, count: int) -> bool:
    return rebalance(cluster, moves, count)
