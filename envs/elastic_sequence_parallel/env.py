"""`servegym/ElasticSequenceParallel-v0`: the agent says what a fleet prefills, and at which degree."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from servegym.costmodels.native.structs import fields_of
from servegym.envs.elastic_scenario import ElasticScenario, load_elastic_scenario
from servegym.envs.elastic_scenario.stream import ElasticEpisodeStream
from servegym.envs.elastic_sequence_parallel.episodes import ElasticSequenceParallelEpisodes
from servegym.envs.elastic_sequence_parallel.observation import num_actions, observation_space
from servegym.envs.elastic_sequence_parallel.viewer import FleetSnapshot, lay_out, words
from servegym.envs.problem import Problem
from servegym.envs.single import NativeEnv
from servegym.envs.viewer import Facts
from servegym.envs.workloads.workload import Workload

DEFAULT_SCENARIO = "mixed_8a800"


def elastic_streams(scenario: str | ElasticScenario, split: str, count: int) -> list[ElasticEpisodeStream]:
    """Streams of a scenario, or of the one of a name in conf/scenario."""
    if isinstance(scenario, str):
        scenario = load_elastic_scenario(scenario)
    return [ElasticEpisodeStream(scenario, split) for _ in range(count)]


def elastic_sequence_parallel_problem(streams: list[ElasticEpisodeStream], flat: bool) -> Problem[Workload]:
    """An episode of each stream, flat or not."""
    scenario = streams[0].scenario
    num_instances = scenario.fleet.num_instances
    episodes = ElasticSequenceParallelEpisodes(scenario, len(streams), streams[0].max_requests)
    return Problem(
        streams,
        episodes,
        episodes.step,
        episodes.observation,
        observation_space(num_instances, flat),
        gym.spaces.Discrete(num_actions(num_instances)),
        lambda episode_id, _: episodes.summary(episode_id),
        flat,
    )


class ElasticSequenceParallelEnv(NativeEnv):
    """Requests of very different lengths share instances that work on a batch alone or together: which?

    Two kinds of questions (docs/elastic_sequence_parallelism.md, "The decision of an agent"). Prefill: are
    requests to be prefilled, which, and on how many instances? It is asked when a request has come, another
    instance can be had, or groups have decoded for ten iterations. Scaling: how does a group go on decoding?
    It is asked after its prefill, and every ten iterations.

    Observation: a Dict, instances and groups as a graph (envs/elastic_sequence_parallel/observation.py), or
        one Box of the same numbers in this order with `flat=True`; of N instances:
        globals    float32 (12,)            the kind of question, the queue, the fleet
        choices    float32 (2 N + 4, 11)    of each action: its batch, how long it takes, what it interrupts
        instances  float32 (N, 8)           room, what runs until when, which can be had
        groups     float32 (2 N, 15)        requests, KV, room, what runs until when, output so far, to come
        members    float32 (2 N, N)         edges: KV tokens of each group on each instance
        requests   float32 (16, 5)          the first that wait: tokens, seconds waited, time left
    Action: Discrete(2 N + 4).
        0                   wait, or go on as it is
        1 .. N              prefill in order of arrival on so many of the instances that can be had
        N + 1 .. 2 N        likewise, shortest first
        2 N + 1, + 2, + 3   one instance more, one less, join the decoding group with the fewest requests
        `action_masks()` says which are legal, bool (2 N + 4,), as MaskablePPO wants it. An illegal action
        raises ValueError and changes nothing.
    Reward: minus the increase of what the episode costs (envs/elastic_sequence_parallel/reward.py):
        normalised latencies of all requests in the system as they grow, and each that is late or rejected, by
        the weights of the scenario's objective.
    Termination: when no request is left; `info["episode_metrics"]` sums the episode up. No time limit.
    Episodes: the scenario's training traffic, or its test traffic with `split="test"`; `reset(seed=s)`
        starts stream s, and every later reset without a seed goes on in it.

    Rendering: `render_mode="rgb_array"` gives pictures of the fleet
        (envs/elastic_sequence_parallel/viewer.py), "human" shows them in a window after every reset and step.

    Arguments: scenario, the name of one of elastic sequence parallelism in conf/scenario or an
    `ElasticScenario`; split, "train" or "test"; flat and render_mode, see above.

    >>> import gymnasium as gym
    >>> env = gym.make("servegym.envs:servegym/ElasticSequenceParallel-v0", scenario="mixed_8a800")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:  # prefill on as many instances as there are, else go on
    ...     legal = observation["choices"][:, 0] > 0
    ...     action = max([k for k in range(1, 5) if legal[k]], default=0)
    ...     observation, reward, terminated, truncated, info = env.step(action)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> round(-total, 6) == round(metrics["cost"] * metrics["num_requests"], 6)
    True
    """

    _episodes: ElasticSequenceParallelEpisodes

    def __init__(
        self,
        scenario: str | ElasticScenario = DEFAULT_SCENARIO,
        split: str = "train",
        flat: bool = False,
        render_mode: str | None = None,
    ) -> None:
        streams = elastic_streams(scenario, split, 1)
        fleet = streams[0].scenario.fleet
        super().__init__(
            elastic_sequence_parallel_problem(streams, flat),
            render_mode,
            "servegym/ElasticSequenceParallel-v0",
            lambda figure: lay_out(figure, fleet),
        )

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        simulation = self._episodes.simulations[0]
        seen = FleetSnapshot.of(fields_of(simulation.state))
        last = (
            "none"
            if self._last_action is None
            else words(int(self._last_action), simulation.fleet.num_instances)
        )
        facts = (
            ("time", f"{seen.time_s:,.3f} s"),
            ("arrived", f"{seen.num_arrived:,} of {seen.num_requests:,}"),
            ("late", f"{seen.num_late:,}"),
            ("waiting", f"{seen.num_waiting:,}"),
            ("in groups", f"{seen.num_in_groups:,}"),
            ("last decision", last),
        )
        return facts, (seen, seen, seen.past())
