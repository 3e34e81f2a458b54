"""`servegym/DynamicBatching-v0`: the agent says when a server starts a batch, and how large it is."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy.typing as npt

from servegym.envs.dynamic_batching.episodes import DynamicBatchingEpisodes
from servegym.envs.dynamic_batching.observation import QUEUE, observation_space
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario, load_dynamic_batching
from servegym.envs.dynamic_batching.stream import Arrivals, ArrivalStream
from servegym.envs.dynamic_batching.viewer import lay_out
from servegym.envs.problem import Problem
from servegym.envs.single import NativeEnv
from servegym.envs.viewer import Facts

DEFAULT_SCENARIO = "inoue_v100"


def dynamic_batching_problem(
    scenario: str | DynamicBatchingScenario, arrivals_s: npt.ArrayLike | None, count: int
) -> Problem[Arrivals]:
    """`count` episodes of a scenario, or of the one of a name in conf/scenario."""
    if isinstance(scenario, str):
        scenario = load_dynamic_batching(scenario)
    streams = [ArrivalStream(scenario, arrivals_s) for _ in range(count)]
    episodes = DynamicBatchingEpisodes(scenario, count, streams[0].max_requests)
    return Problem(
        streams,
        episodes,
        episodes.step,
        episodes.observation,
        observation_space(),
        gym.spaces.Discrete(scenario.max_batch + 1),
        episodes.summary,
    )


class DynamicBatchingEnv(NativeEnv):
    """One server runs batches of requests that come at random; larger ones take longer, but less a request.

    A decision is due at the end of every batch and, while the server is idle, at every arrival, whenever
    something else than to wait is legal. The problem of Xu et al., "SMDP-Based Dynamic Batching" (arXiv
    2301.12865); docs/dynamic_batching.md says how it is solved exactly.

    Observation: float32 (4,), raw units (envs/dynamic_batching/observation.py):
        queue      requests that wait
        oldest_s   seconds that the oldest has waited
        gap_s      seconds since the last arrival
        draining   1 once no request will come any more
    Action: Discrete(max_batch + 1). 0 waits for the next arrival, `b` starts a batch of the oldest `b`. Legal
        are `min_batch` to `max_batch` as far as requests wait, and 0; once draining not 0, but all that wait
        where they are fewer than `min_batch`. `action_masks()` gives them as bool (max_batch + 1,); an
        illegal action raises ValueError and changes nothing.
    Reward: minus the increase of the cost until the next decision (envs/dynamic_batching/reward.py), so the
        undiscounted return is minus `response_weight / rate_rps` times the sum of response times, minus
        `power_weight` times the joules; a second, in the long run, what `servegym solve` minimises.
    Termination: when every request of the episode has been served; `info["episode_metrics"]` sums it up.
        There is no time limit.
    Episodes: Poisson arrivals at the scenario's rate, `requests` of them; `reset(seed=s)` starts stream s,
        and every later reset without a seed goes on in it.

    Rendering: `render_mode="rgb_array"` gives pictures of the queue and the batches taken from it
        (envs/dynamic_batching/viewer.py), "human" shows them in a window after every reset and step.

    Arguments: scenario, a name in conf/scenario or a `DynamicBatchingScenario`; arrivals_s, seconds (N,),
    ascending: the arrivals of every episode, in place of Poisson's; render_mode, see above.

    >>> import gymnasium as gym
    >>> import numpy as np
    >>> env = gym.make("servegym.envs:servegym/DynamicBatching-v0", scenario="inoue_v100")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:  # all that wait, as soon as the server is free
    ...     observation, reward, terminated, truncated, info = env.step(min(int(observation[0]), 64))
    ...     total += reward
    >>> metrics, scenario = info["episode_metrics"], env.unwrapped.scenario
    >>> responses_s = metrics["mean_response_s"] * metrics["num_requests"]
    >>> weight = scenario.response_weight / scenario.rate_rps
    >>> bool(np.isclose(-total, weight * responses_s + scenario.power_weight * metrics["energy_j"]))
    True
    """

    scenario: DynamicBatchingScenario
    _episodes: DynamicBatchingEpisodes

    def __init__(
        self,
        scenario: str | DynamicBatchingScenario = DEFAULT_SCENARIO,
        arrivals_s: npt.ArrayLike | None = None,
        render_mode: str | None = None,
    ) -> None:
        problem = dynamic_batching_problem(scenario, arrivals_s, 1)
        super().__init__(problem, render_mode, "servegym/DynamicBatching-v0", lay_out)

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        episode, seen = self._episodes.episodes[0], self._episodes.observation[0]
        queue, time_s = float(seen[QUEUE]), float(episode.now_s)
        batch = int(episode.last_batch)
        power_w = episode.energy_j / max(time_s - self._problem.workloads[0][0], 1e-9)
        facts = (
            ("time", f"{time_s:,.3f} s"),
            ("arrived", f"{episode.num_arrived:,} of {episode.num_requests:,}"),
            ("waiting", f"{queue:,.0f}"),
            ("last decision", f"batch of {batch}" if batch else "wait" if episode.num_decisions else "none"),
            ("mean batch", f"{episode.num_started / max(episode.num_batches, 1):.1f}"),
            ("power", f"{power_w:,.0f} W"),
        )
        decision = int(episode.num_decisions)
        return facts, ((decision, queue, batch), (time_s, float(batch), queue))
