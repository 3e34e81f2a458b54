"""K episodes of one batching server each, side by side, all advanced by one native call.

Both forms of the environment are thin views of this; it knows nothing of Gymnasium.
"""

from typing import NamedTuple

import numpy as np

from servegym.costmodels.native.jit import jit, kernel
from servegym.costmodels.native.structs import struct
from servegym.envs.dynamic_batching.observation import DRAINING, FEATURES, GAP_S, OLDEST_S, QUEUE
from servegym.envs.dynamic_batching.reward import request_seconds
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.stream import Arrivals
from servegym.envs.legality import ALL_LEGAL, first_illegal, refusal
from servegym.envs.metrics import percentile

EPISODE = np.dtype(
    [
        ("num_requests", np.int64),
        ("num_arrived", np.int64),
        ("num_started", np.int64),  # requests whose batch has started
        ("num_decisions", np.int64),
        ("num_batches", np.int64),
        ("last_batch", np.int64),  # its size; 0 after a wait
        ("now_s", np.float64),
        ("busy_s", np.float64),
        ("energy_j", np.float64),
        ("unpaid", np.float64),  # what has been cost before the first decision, charged with it
    ],
    align=True,
)


class State(NamedTuple):
    """What compiled code works on; the arrays are those of `DynamicBatchingEpisodes`."""

    episodes: np.ndarray  # EPISODE (K,)
    arrivals_s: np.ndarray  # float64 (K, max_requests)
    ends_s: np.ndarray  # float64 (K, max_requests), of the requests' batches
    latency_s: np.ndarray  # float64 (max_batch + 1,), by size
    energy_j: np.ndarray  # likewise
    observation: np.ndarray  # float32 (K, FEATURES)
    masks: np.ndarray  # bool (K, max_batch + 1)
    rewards: np.ndarray  # float64 (K,)
    finished: np.ndarray  # bool (K,)
    min_batch: int
    second_cost: float  # of a request in the system
    joule_cost: float


class DynamicBatchingEpisodes:
    """K independent episodes of one scenario, of at most `max_requests` requests each.

    Written in place: `observation`, float32 (K, FEATURES), `masks`, bool (K, max_batch + 1), `rewards`,
    float64 (K,), and `finished`, bool (K,).
    """

    def __init__(self, scenario: DynamicBatchingScenario, num_episodes: int, max_requests: int) -> None:
        self.scenario = scenario
        self.episodes = np.zeros(num_episodes, EPISODE).view(np.recarray)
        self.observation = np.zeros((num_episodes, FEATURES), np.float32)
        self.masks = np.zeros((num_episodes, scenario.max_batch + 1), np.bool_)
        self.rewards = np.zeros(num_episodes)
        self.finished = np.zeros(num_episodes, np.bool_)
        self._arrivals_s = np.zeros((num_episodes, max_requests))
        self._ends_s = np.zeros((num_episodes, max_requests))
        self._state = struct(
            State(
                episodes=self.episodes,
                arrivals_s=self._arrivals_s,
                ends_s=self._ends_s,
                latency_s=np.array((0.0, *scenario.latency_s)),
                energy_j=np.array((0.0, *scenario.joules)),
                observation=self.observation,
                masks=self.masks,
                rewards=self.rewards,
                finished=self.finished,
                min_batch=scenario.min_batch,
                second_cost=float(scenario.response_weight / scenario.rate_rps),
                joule_cost=float(scenario.power_weight),
            )
        )

    def begin(self, episode_id: int, workload: Arrivals) -> None:
        """Starts episode `episode_id` afresh, its requests arriving at `workload`, at its first decision."""
        self._arrivals_s[episode_id, : len(workload)] = workload
        self.episodes[episode_id] = np.zeros((), EPISODE)
        self.episodes[episode_id].num_requests = len(workload)
        self.finished[episode_id] = False
        _begin(self._state, episode_id)

    def step(self, actions: np.ndarray) -> None:
        """Takes one decision in every episode that is not finished, and goes on to the next one.

        actions: int64 (K,), the size of a batch, 0 to wait; ValueError names the first that is not legal, and
        then nothing has changed.
        """
        if actions.shape != self.finished.shape:
            raise ValueError(f"actions have shape {actions.shape}, must be {self.finished.shape}")
        episode_id = _step(self._state, actions)
        if episode_id != ALL_LEGAL:
            count, mask = self.episodes[episode_id].num_decisions, self.masks[episode_id]
            raise refusal(episode_id, count, actions[episode_id], mask)

    def legal_actions(self) -> np.ndarray:
        """bool (K, max_batch + 1), a new array."""
        return self.masks.copy()

    def responses_s(self, episode_id: int) -> np.ndarray:
        """Seconds from arrival to the end of the batch, of the requests served so far, (n,)."""
        served = slice(int(self.episodes[episode_id].num_started))
        return np.asarray(self._ends_s[episode_id, served] - self._arrivals_s[episode_id, served])

    def summary(self, episode_id: int, workload: Arrivals) -> dict[str, float]:
        """Of an episode that is over: response times, energy and batches, from its first arrival on."""
        episode, scenario = self.episodes[episode_id], self.scenario
        responses_s = np.sort(self.responses_s(episode_id))
        makespan_s = float(episode.now_s - workload[0])
        mean_s, power_w = float(responses_s.mean()), float(episode.energy_j / makespan_s)
        return {
            "num_requests": float(len(workload)),
            "makespan_s": makespan_s,
            "throughput_rps": len(workload) / makespan_s,
            "mean_response_s": mean_s,
            "p50_response_s": percentile(responses_s, 50),
            "p99_response_s": percentile(responses_s, 99),
            "num_batches": float(episode.num_batches),
            "mean_batch": len(workload) / float(episode.num_batches),
            "utilisation": float(episode.busy_s / makespan_s),
            "energy_j": float(episode.energy_j),
            "power_w": power_w,
            "cost": scenario.response_weight * mean_s + scenario.power_weight * power_w,
        }


@kernel
def _serve(state: State, episode_id: int, size: int) -> float:
    """Runs a batch of the oldest `size` to its end, with all that arrive until then; returns the cost."""
    episode, arrivals_s = state.episodes[episode_id], state.arrivals_s[episode_id]
    start_s, first = episode.now_s, episode.num_arrived
    end_s = start_s + state.latency_s[size]
    last = first
    while last < episode.num_requests and arrivals_s[last] <= end_s:
        last += 1
    seconds = request_seconds(first - episode.num_started, arrivals_s, first, last, start_s, end_s)
    state.ends_s[episode_id, episode.num_started : episode.num_started + size] = end_s
    episode.num_arrived = last
    episode.num_started += size
    episode.num_batches += 1
    episode.now_s = end_s
    episode.busy_s += state.latency_s[size]
    episode.energy_j += state.energy_j[size]
    cost: float = state.second_cost * seconds + state.joule_cost * state.energy_j[size]
    return cost


@kernel
def _wait(state: State, episode_id: int) -> float:
    """Lets time pass to the next arrival, and takes in all that come at that instant; returns the cost."""
    episode, arrivals_s = state.episodes[episode_id], state.arrivals_s[episode_id]
    first, start_s = episode.num_arrived, episode.now_s
    end_s = arrivals_s[first]
    last = first + 1
    while last < episode.num_requests and arrivals_s[last] <= end_s:
        last += 1
    seconds = request_seconds(first - episode.num_started, arrivals_s, first, last, start_s, end_s)
    episode.num_arrived = last
    episode.now_s = end_s
    return state.second_cost * seconds


@kernel
def _go_on(state: State, episode_id: int) -> float:
    """Waits for as long as nothing else is legal, then writes what the agent sees; returns the cost."""
    episode = state.episodes[episode_id]
    cost = 0.0
    while True:
        queue = episode.num_arrived - episode.num_started
        draining = episode.num_arrived == episode.num_requests
        if draining or queue >= state.min_batch:
            break
        cost += _wait(state, episode_id)
    state.finished[episode_id] = draining and queue == 0
    smallest = min(state.min_batch, queue) if draining else state.min_batch
    mask = state.masks[episode_id]
    mask[0] = not draining
    for size in range(1, mask.shape[0]):
        mask[size] = smallest <= size <= queue
    seen, arrivals_s = state.observation[episode_id], state.arrivals_s[episode_id]
    seen[QUEUE] = queue
    seen[OLDEST_S] = episode.now_s - arrivals_s[episode.num_started] if queue > 0 else 0.0
    seen[GAP_S] = episode.now_s - arrivals_s[episode.num_arrived - 1]
    seen[DRAINING] = draining
    return cost


@jit
def _begin(state: State, episode_id: int) -> None:
    """Goes to the first decision of an episode; time begins with its first arrival."""
    state.episodes[episode_id].now_s = state.arrivals_s[episode_id, 0]
    state.episodes[episode_id].unpaid = _go_on(state, episode_id)


@jit
def _step(state: State, actions: np.ndarray) -> int:
    """One decision in every episode that is not finished; none where one is illegal: returns that episode."""
    illegal = first_illegal(state.masks, state.finished, actions)
    if illegal != ALL_LEGAL:
        return illegal
    for episode_id in range(actions.shape[0]):
        state.rewards[episode_id] = 0.0
        if state.finished[episode_id]:
            continue
        size = actions[episode_id]
        cost = _wait(state, episode_id) if size == 0 else _serve(state, episode_id, size)
        episode = state.episodes[episode_id]
        state.rewards[episode_id] = -(episode.unpaid + cost + _go_on(state, episode_id))
        episode.unpaid = 0.0
        episode.num_decisions += 1
        episode.last_batch = size
    return ALL_LEGAL
