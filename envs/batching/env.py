"""`servegym/Batching-v0`: the agent is the scheduler of an engine."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.batching.observation import observation_of, observation_space
from servegym.envs.batching.viewer import EngineSnapshot, lay_out, row_of, words
from servegym.envs.llm_episodes import episode_streams, episode_summary
from servegym.envs.problem import Problem
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.single import NativeEnv
from servegym.envs.viewer import Facts
from servegym.envs.workloads import Workload

DEFAULT_SCENARIO = "azure_conv_1xh100"

ACTIONS = ("discrete", "continuous")


def action_space(action: str) -> gym.Space[Any]:
    """The space of one replica's actions in one of the forms `ACTIONS`."""
    if action not in ACTIONS:
        raise InputError(f"action = {action}: must be one of {', '.join(ACTIONS)}")
    if action == "discrete":
        return gym.spaces.Discrete(NUM_CHOICES)
    return gym.spaces.Box(-1.0, 1.0, (NUM_ROWS + 1,), np.float32)


def batching_problem(streams: list[EpisodeStream], action: str, flat: bool) -> Problem[Workload]:
    """An episode of each stream, with actions in the form `action`."""
    space = action_space(action)
    episodes = BatchingEpisodes(streams[0].scenario, len(streams), streams[0].max_requests)
    step = episodes.step if action == "discrete" else episodes.step_by_scores
    observation = observation_of(episodes.rows, flat)
    summary = episode_summary(streams[0].scenario, episodes, episodes.energy_j)
    return Problem(streams, episodes, step, observation, observation_space(flat), space, summary)


class BatchingEnv(NativeEnv):
    """Put together each batch of one engine: vLLM V1's mechanism, with its choices left to the agent.

    A decision is due at the start of an iteration when a request waits or is in its prefill; otherwise the
    engine decodes by itself. Time stands still from one decision to the next until the agent starts the
    iteration (docs/simulator.md, "Scheduler: agent").

    Observation: a Dict (envs/batching/observation.py), or one Box of the same numbers with `flat=True`:
        engine    float32 (13,)     running, waiting, ..., KV blocks, prefill tokens left (decision_view.py)
        requests  float32 (64, 12)  rows 0 to 31 waiting requests, the head of the queue and the shortest
                                    (observation.py), rows 32 to 63 running ones, last admitted first: state,
                                    tokens, seconds, priority, blocks, and whether acting on it is legal
    Action, with `action="discrete"`: Discrete(68).
        0 to 31   admit the waiting request of this row, if a seat, a token and its blocks are left
        32 to 63  preempt the running request of this row (recompute; to the front of the queue), unless it
                  was admitted in this very batch or runs alone
        64 to 67  start the iteration: all decode, and prefills share 0, 1/4, 1/2 or all of the token budget
        `action_masks()` gives the legal ones as bool (68,), as MaskablePPO wants it. An illegal action
        raises ValueError and changes nothing.
    Action, with `action="continuous"`: Box(-1, 1, (65,)); one step is one iteration. Running rows with a
        score below -0.5 are preempted, where that is legal; then waiting rows are admitted, highest score
        first, until one is negative or does not fit (where nobody would run, the highest is admitted all the
        same). The last number, from -1 to 1, is the share of the budget for prefills, from none to all; a
        batch that would be empty gets all. A number outside -1 to 1 raises ValueError and changes nothing.
    Reward: minus the increase of the objective's cost until the next decision (envs/batching/reward.py), so
        the undiscounted return is minus what the scenario's objective weighs: seconds of waiting, goodput
        (`slo_weight`), joules (`energy_weight`), ...
    Termination: when every request of the episode has finished; `info["episode_metrics"]` sums it up. There
        is no time limit.
    Episodes: as in `servegym/Routing-v0`, of a scenario with one replica.

    Rendering: `render_mode="rgb_array"` gives pictures of the engine (envs/batching/viewer.py), "human" shows
        them in a window after every reset and step.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test"; action, flat and
    render_mode, see above.

    >>> import gymnasium as gym
    >>> import numpy as np
    >>> env = gym.make("servegym.envs:servegym/Batching-v0", scenario="generated_1xh100")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:  # first come first served, as vLLM does
    ...     head_fits = env.unwrapped.action_masks()[0]
    ...     observation, reward, terminated, truncated, info = env.step(0 if head_fits else 67)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> bool(np.isclose(-total, metrics["mean_ttft_s"] * metrics["num_requests"]))
    True
    """

    _episodes: BatchingEpisodes

    def __init__(
        self,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        action: str = "discrete",
        flat: bool = False,
        render_mode: str | None = None,
    ) -> None:
        problem = batching_problem(episode_streams(scenario, split, 1), action, flat)
        super().__init__(problem, render_mode, "servegym/Batching-v0", lay_out)
        self._chosen_request = NOBODY

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        self._chosen_request = NOBODY
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one decision, or those of one iteration, and goes on to the next one."""
        on_a_row = np.ndim(action) == 0 and 0 <= action < NUM_ROWS
        self._chosen_request = int(self._episodes.row_ids[0, int(action)]) if on_a_row else NOBODY
        return super().step(action)

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        episodes, episode = self._episodes, self._episodes.episodes[0]
        seen = observation_of(episodes.rows[0], flat=False)
        chosen = row_of(self._chosen_request, episodes.row_ids[0])
        title = "tokens of each visible request"
        engine = EngineSnapshot(seen["engine"], seen["requests"], episodes.engine, chosen, title)
        time_s = float(episodes.fleet.replicas[0].clock_s)
        running, waiting = engine.amount("running"), engine.amount("waiting")
        if self._last_action is None:
            last = "none"
        else:
            last = words(int(self._last_action)) if np.ndim(self._last_action) == 0 else "an iteration"
        facts = (
            ("time", f"{time_s:,.2f} s"),
            ("arrived", f"{episode.next_request:,} of {episode.num_requests:,}"),
            ("running", f"{running:,.0f}"),
            ("waiting", f"{waiting:,.0f}"),
            ("KV in use", f"{engine.amount('kv_used_blocks') / episodes.engine.num_kv_blocks:.0%}"),
            ("last decision", last),
        )
        return facts, (engine, (time_s, running, waiting))
