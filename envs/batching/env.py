"""`servegym/Batching-v0`: the agent is the scheduler of an engine."""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.batching.observation import observation_of, observation_space
from servegym.envs.metrics import summarise
from servegym.envs.routing.stream import EpisodeStream
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS

DEFAULT_SCENARIO = "azure_conv_1xh100"


ACTIONS = ("discrete", "continuous")


def action_space(action: str) -> gym.Space[Any]:
    """The space of one replica's actions in one of the forms `ACTIONS`."""
    if action not in ACTIONS:
        raise InputError(f"action = {action}: must be one of {', '.join(ACTIONS)}")
    if action == "discrete":
        return gym.spaces.Discrete(NUM_CHOICES)
    return gym.spaces.Box(-1.0, 1.0, (NUM_ROWS + 1,), np.float32)


class BatchingEnv(gym.Env[Any, Any]):
    """Put together each batch of one engine: vLLM V1's mechanism, with its choices left to the agent.

    A decision is due at the start of an iteration when a request waits or is in its prefill; otherwise the
    engine decodes by itself. Time stands still from one decision to the next until the agent starts the
    iteration (docs/simulator.md, "Scheduler: agent").

    Observation: a Dict (envs/batching/observation.py), or one Box of the same numbers with `flat=True`:
        engine    float32 (13,)     running, waiting, ..., KV blocks, prefill tokens left (decision_view.py)
        requests  float32 (64, 12)  rows 0 to 31 the head of the queue, rows 32 to 63 running requests, last
                                    admitted first: state, tokens, seconds, priority, blocks, and whether the
                                    action on this row is legal
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
        the undiscounted return is minus what the scenario's objective weighs.
    Termination: when every request of the episode has finished; `info["episode_metrics"]` sums it up. There
        is no time limit.
    Episodes: as in `servegym/Routing-v0`, of a scenario with one replica.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test"; action and flat,
    see above.

    >>> import gymnasium as gym
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

    def __init__(
        self,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        action: str = "discrete",
        flat: bool = False,
    ) -> None:
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self.action_space = action_space(action)
        self.observation_space = observation_space(flat)
        self._stream = EpisodeStream(self.scenario, split)
        self._episodes = BatchingEpisodes(self.scenario, 1, self._stream.max_requests)
        self._action, self._flat = action, flat

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        super().reset(seed=seed)
        if seed is not None:
            self._stream.restart(seed)
        self._episodes.begin(0, self._stream.next_workload())
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one decision, or those of one iteration, and goes on to the next one."""
        if self._episodes.finished[0]:
            raise RuntimeError("the episode is over: call reset() before step()")
        if self._action == "discrete":
            self._episodes.step(np.array([action], np.int64))
        else:
            self._episodes.step_by_scores(np.asarray(action, np.float64)[None])
        terminated = bool(self._episodes.finished[0])
        info = {"episode_metrics": summarise(self._episodes.results(0))} if terminated else {}
        return self._observation(), float(self._episodes.rewards[0]), terminated, False, info

    def action_masks(self) -> np.ndarray:
        """bool (68,): True where a discrete action is legal."""
        masks: np.ndarray = self._episodes.masks[0].copy()
        return masks

    def _observation(self) -> Any:
        return observation_of(self._episodes.rows[0].copy(), self._flat)
