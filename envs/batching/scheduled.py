"""Episodes whose engines' schedulers are the caller: what one engine and a fleet of them have in common."""

from dataclasses import replace

import numpy as np

from servegym.costmodels.iterations.power import IterationPower, iteration_power
from servegym.costmodels.specs import GPUS, MODELS
from servegym.envs.legality import ALL_LEGAL, refusal
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.setup import ReplicaSpec, clear, load_requests, new_fleet
from servegym.envs.sim.llm.simulate import Results, refuse_columns
from servegym.envs.workloads import Workload


def power_counted(scenario: Scenario) -> IterationPower | None:
    """The power of a replica, where the objective weighs or wants to know the energy."""
    objective, fleet = scenario.objective, scenario.config.fleet
    if objective.energy_weight == 0 and not objective.measure_energy:
        return None
    pool = fleet.pools[0] if fleet.pools else fleet
    gpu, tensor_parallel = pool.gpu or fleet.gpu, pool.tensor_parallel or fleet.tensor_parallel
    return iteration_power(MODELS[fleet.model], GPUS[gpu], tensor_parallel)


class ScheduledEpisodes:
    """K independent episodes of one scenario, each with all of its replicas.

    max_requests: the longest episode there will be. episode: dtype of their records, with `num_requests` and
    `num_decisions`. Written in place: `masks`, bool (K, num_actions), `rewards`, float64 (K,), and
    `finished`, bool (K,).
    """

    def __init__(
        self, scenario: Scenario, num_episodes: int, max_requests: int, episode: np.dtype, num_actions: int
    ) -> None:
        scenario.require_plain("an environment that schedules")
        self.num_episodes = num_episodes
        self.num_replicas = scenario.num_replicas
        self.max_requests = max_requests
        self.engine = replace(scenario.engine, scheduler="agent")
        self.power = power_counted(scenario)
        self.fleet = new_fleet(
            [ReplicaSpec(self.engine, scenario.cost, self.power)] * self.num_replicas,
            num_episodes * max_requests,
            num_episodes=num_episodes,
        )
        self.episodes = np.zeros(num_episodes, episode).view(np.recarray)
        self.masks = np.zeros((num_episodes, num_actions), np.bool_)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)

    def begin(self, episode_id: int, workload: Workload) -> None:
        """Starts episode `episode_id` afresh with a workload and goes to its first decision."""
        self.engine.check_fits(workload)
        refuse_columns(workload, ("parent", "cancel_after_s", "image_tokens"), "the environment")
        clear(self.fleet, slice(episode_id * self.num_replicas, (episode_id + 1) * self.num_replicas))
        first = episode_id * self.max_requests
        load_requests(self.fleet, np.arange(first, first + workload.num_requests, dtype=np.int32), workload)
        self.episodes[episode_id] = np.zeros((), self.episodes.dtype)
        self.episodes[episode_id].num_requests = workload.num_requests
        self.finished[episode_id] = False
        self._go_to_first_decision(episode_id)

    def step(self, actions: np.ndarray) -> None:
        """Takes one decision in every episode that is not finished, and goes on to the next one.

        actions: int64 (K,); ValueError names the first that is not legal, and then nothing has changed.
        """
        if actions.shape != self.finished.shape:
            raise ValueError(f"actions have shape {actions.shape}, must be {self.finished.shape}")
        episode_id = self._take(actions)
        if episode_id != ALL_LEGAL:
            count, mask = self.episodes[episode_id].num_decisions, self.masks[episode_id]
            raise refusal(episode_id, count, actions[episode_id], mask)

    def legal_actions(self) -> np.ndarray:
        """bool (K, num_actions), a new array."""
        return self.masks.copy()

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""
        first = episode_id * self.max_requests
        num_requests = int(self.episodes[episode_id].num_requests)
        return Results.of(self.fleet, slice(first, first + num_requests), episode_id * self.num_replicas)

    def energy_j(self, episode_id: int) -> float | None:
        """Joules of an episode that is over; None where they are not counted."""
        if self.power is None:
            return None
        replicas = slice(episode_id * self.num_replicas, (episode_id + 1) * self.num_replicas)
        end_s = self.fleet.replicas["clock_s"][replicas].max()
        idle_w = self.num_replicas * self.power.full_w * self.power.idle
        active_j = self.fleet.replicas["active_j"][replicas].sum()
        return float(active_j + idle_w * (end_s - self.episodes[episode_id].start_s))

    def _go_to_first_decision(self, episode_id: int) -> None:
        raise NotImplementedError

    def _take(self, actions: np.ndarray) -> int:
        """Does what `step` does, unless an action is not legal: returns its episode, else ALL_LEGAL."""
        raise NotImplementedError
