"""`servegym/TwoLevel-v0`: the agent is the load balancer and the scheduler of every engine behind it."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from servegym.envs.batching.viewer import EngineSnapshot, row_of, words
from servegym.envs.llm_episodes import episode_streams, episode_summary
from servegym.envs.problem import Problem
from servegym.envs.routing.viewer import FleetSnapshot
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.sim.llm.view import PROMPT_TOKENS
from servegym.envs.single import NativeEnv
from servegym.envs.two_level.episodes import TwoLevelEpisodes
from servegym.envs.two_level.observation import ROUTING, observation_space
from servegym.envs.two_level.viewer import lay_out
from servegym.envs.viewer import Facts
from servegym.envs.workloads import Workload

DEFAULT_SCENARIO = "azure_conv_4xh100"


def two_level_problem(streams: list[EpisodeStream], flat: bool) -> Problem[Workload]:
    """An episode of each stream, seen flat or not."""
    scenario = streams[0].scenario
    episodes = TwoLevelEpisodes(scenario, len(streams), streams[0].max_requests)
    return Problem(
        streams,
        episodes,
        episodes.step,
        episodes.observation,
        observation_space(scenario.num_replicas, flat),
        gym.spaces.Discrete(scenario.num_replicas + NUM_CHOICES),
        episode_summary(scenario, episodes, episodes.energy_j),
        flat,
    )


class TwoLevelEnv(NativeEnv):
    """Route each request to one of R replicas, and put together the batches of all of them.

    One decision a step, of the level that is due first: routing at arrivals, after all iterations that end at
    that instant; scheduling at the start of a replica's iteration, as in `servegym/Batching-v0`, replicas
    by number. Nothing happens between, and nothing after the instant of the decision is seen.

    Observation: a Dict (envs/two_level/observation.py), or one Box of the same numbers with `flat=True`:
        level     Discrete(2)            0 routing, 1 scheduling
        replica   Discrete(R)            the replica to be scheduled
        request   float32 (4,)           as in `servegym/Routing-v0`; 0 when scheduling
        replicas  float32 (R, 15)        as in `servegym/Routing-v0`
        setting   float32 (9,)           likewise
        engine    float32 (13,)          as in `servegym/Batching-v0`, of that replica; 0 when routing
        requests  float32 (64, 12)       likewise
    Action: Discrete(R + 68). 0 to R - 1 route the request, the others are those of `servegym/Batching-v0` for
        the replica that is due. `action_masks()` gives the legal ones as bool (R + 68,); an illegal action
        raises ValueError and changes nothing.
    Reward, termination and episodes: as in `servegym/Batching-v0`, over the whole fleet.

    Rendering: `render_mode="rgb_array"` gives pictures of the fleet and of the engine whose decision is due
        (envs/two_level/viewer.py), "human" shows them in a window after every reset and step.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test"; flat and
    render_mode, see above.
    `envs/two_level/aec.py` has the same with an agent for the router and one for each scheduler.

    >>> import gymnasium as gym
    >>> import numpy as np
    >>> env = gym.make("servegym.envs:servegym/TwoLevel-v0", scenario="generated_8xh100")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:  # join the shortest queue, each served first come first served
    ...     if observation["level"] == 0:
    ...         action = (observation["replicas"][:, 1] + observation["replicas"][:, 2]).argmin()
    ...     else:
    ...         action = 8 if env.unwrapped.action_masks()[8] else 8 + 67
    ...     observation, reward, terminated, truncated, info = env.step(action)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> bool(np.isclose(-total, metrics["mean_ttft_s"] * metrics["num_requests"]))
    True
    """

    _episodes: TwoLevelEpisodes

    def __init__(
        self,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        flat: bool = False,
        render_mode: str | None = None,
    ) -> None:
        streams = episode_streams(scenario, split, 1)
        problem = two_level_problem(streams, flat)
        count = streams[0].scenario.num_replicas
        super().__init__(problem, render_mode, "servegym/TwoLevel-v0", lambda figure: lay_out(figure, count))
        self._chosen_request, self._chosen_replica = NOBODY, -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        self._chosen_request, self._chosen_replica = NOBODY, -1
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one decision and goes on to the next one."""
        choice = int(action) - self._episodes.num_replicas
        self._chosen_replica = int(action if choice < 0 else self._episodes.observation["replica"][0])
        on_a_row = 0 <= choice < NUM_ROWS
        self._chosen_request = int(self._episodes.row_ids[0, choice]) if on_a_row else NOBODY
        return super().step(action)

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        episodes, episode = self._episodes, self._episodes.episodes[0]
        seen = {key: value[0] for key, value in episodes.observation.items()}
        over, routing = bool(episodes.finished[0]), seen["level"] == ROUTING
        fleet = FleetSnapshot.of(seen["replicas"], self._chosen_replica)
        turn = "nobody" if over else "router" if routing else f"engine {seen['replica']}"
        engine = None
        if not routing:
            chosen = row_of(self._chosen_request, episodes.row_ids[0])
            title = f"engine {seen['replica']}"
            engine = EngineSnapshot(seen["engine"], seen["requests"], episodes.engine, chosen, title)
        last = "none"
        if self._last_action is not None:
            choice = int(self._last_action) - episodes.num_replicas
            last = f"route to {self._chosen_replica}" if choice < 0 else words(choice)
        to_route = routing and not over
        facts = (
            ("time", f"{episode.now_s:,.2f} s"),
            ("routed", f"{episode.next_request:,} of {episode.num_requests:,}"),
            ("turn of", turn),
            ("to be routed", f"{seen['request'][PROMPT_TOKENS]:,.0f} tokens" if to_route else "none"),
            ("KV in use", f"{fleet.kv_share.mean():.0%}"),
            ("last decision", last),
        )
        return facts, (fleet, engine, fleet.past(float(episode.now_s)))
