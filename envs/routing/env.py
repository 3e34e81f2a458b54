"""`servegym/Routing-v0`: the agent is the load balancer."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from servegym.envs.llm_episodes import episode_streams, episode_summary
from servegym.envs.problem import Problem
from servegym.envs.routing.episodes import RoutingEpisodes
from servegym.envs.routing.fleet_episodes import FleetRoutingEpisodes, routing_episodes
from servegym.envs.routing.observation import observation_space
from servegym.envs.routing.viewer import FleetSnapshot, lay_out
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.view import PROMPT_TOKENS
from servegym.envs.single import NativeEnv
from servegym.envs.viewer import Facts
from servegym.envs.workloads import Workload

DEFAULT_SCENARIO = "azure_conv_8xh100"


def routing_problem(streams: list[EpisodeStream], slots: int | None, flat: bool) -> Problem[Workload]:
    """An episode of each stream, seen in `slots` rows (None: as many as replicas), flat or not."""
    episodes = routing_episodes(streams[0].scenario, len(streams), streams[0].max_requests, slots)
    num_slots = episodes.replicas.shape[1]
    return Problem(
        streams,
        episodes,
        episodes.step,
        episodes.observation,
        observation_space(num_slots, flat),
        gym.spaces.Discrete(num_slots),
        episode_summary(streams[0].scenario, episodes),
        flat,
    )


class RoutingEnv(NativeEnv):
    """Route each request of a stream to one of the replicas of a fleet, the plain one or any other.

    A decision is due when a request arrives. In a fleet with roles, failures and so on (docs/simulator.md,
    "The fleet") also whenever it comes back to the router: to go on to the next stage of its way (encode,
    prefill, decode), or because its replica has failed; and later, where none was available.

    Observation: a Dict, the request/replica graph in arrays (envs/routing/observation.py), or one Box of the
        same numbers in this order with `flat=True`:
        request   float32 (4,)         prompt tokens, predicted output tokens (0: no predictor), gap in s,
                                       priority (smaller is more urgent)
        replicas  float32 (slots, 15)  a row per replica slot: available, running, waiting, queued prefill
                                       tokens, ... (columns and units: docs/simulator.md)
        setting   float32 (9,)         what stays the same: the fleet's clock, limits of its engines, the mean
                                       output of training traffic, the objective's weights
    Action: Discrete(slots), the replica that gets the request. Legal are the rows with `available` = 1;
        `action_masks()` gives them as bool (slots,). An illegal action raises ValueError.
    Reward: minus the increase of the episode's cost until the next decision, in seconds
        (envs/routing/reward.py). The undiscounted return is minus the sum of TTFT, or of what else the
        scenario's objective weighs.
    Termination: after the last decision the fleet runs until every request has ended; the episode
        terminates then, and `info["episode_metrics"]` sums it up. There is no time limit.
    Episodes: the scenario's training traffic, or its test traffic with `split="test"`; `reset(seed=s)`
        starts stream s, and every later reset without a seed goes on in it.

    Rendering: `render_mode="rgb_array"` gives pictures of the fleet (envs/routing/viewer.py), "human" shows
        them in a window after every reset and step. An instance's `metadata` lists what its machine can do.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test"; slots, rows of the
    observation, at least the number of replicas (default: equal); flat and render_mode, see above.

    >>> import gymnasium as gym
    >>> import numpy as np
    >>> env = gym.make("servegym.envs:servegym/Routing-v0", scenario="generated_8xh100")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:
    ...     shortest = (observation["replicas"][:, 1] + observation["replicas"][:, 2]).argmin()
    ...     observation, reward, terminated, truncated, info = env.step(shortest)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> bool(np.isclose(-total, metrics["mean_ttft_s"] * metrics["num_requests"]))
    True
    """

    _episodes: RoutingEpisodes | FleetRoutingEpisodes

    def __init__(
        self,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        slots: int | None = None,
        flat: bool = False,
        render_mode: str | None = None,
    ) -> None:
        streams = episode_streams(scenario, split, 1)
        problem = routing_problem(streams, slots, flat)
        num_replicas = streams[0].scenario.num_replicas
        super().__init__(
            problem, render_mode, "servegym/Routing-v0", lambda figure: lay_out(figure, num_replicas)
        )

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        episodes = self._episodes
        episode = episodes.episodes[0]
        chosen = -1 if self._last_action is None else int(self._last_action)
        fleet = FleetSnapshot.of(episodes.replicas[0, : episodes.num_replicas], chosen)
        over = bool(episodes.finished[0])
        facts = (
            ("last decision" if over else "time", f"{episode.now_s:,.2f} s"),
            ("routed", f"{episodes.num_routed[0]:,} of {episode.num_requests:,}"),
            ("running", f"{fleet.running.sum():,.0f}"),
            ("waiting", f"{fleet.waiting.sum():,.0f}"),
            ("KV in use", f"{fleet.kv_share.mean():.0%}"),
            ("next request", "none" if over else f"{episodes.request[0, PROMPT_TOKENS]:,.0f} tokens"),
        )
        return facts, (fleet, fleet.past(float(episode.now_s)))
