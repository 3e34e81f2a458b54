"""`servegym/DeferredBatching-v0`: the agent says when and where each batch of many models runs."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from servegym.costmodels.native.structs import fields_of
from servegym.envs.batch_metrics import summarise_batches
from servegym.envs.batch_scenario import BatchScenario, load_batch_scenario
from servegym.envs.batch_scenario.stream import BatchEpisodeStream
from servegym.envs.deferred_batching.episodes import DeferredBatchingEpisodes
from servegym.envs.deferred_batching.observation import observation_space
from servegym.envs.deferred_batching.viewer import PAST, ClusterSnapshot, lay_out, span_of, words
from servegym.envs.problem import Problem
from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.single import NativeEnv
from servegym.envs.viewer import Facts
from servegym.envs.workloads.batch_workload import BatchWorkload

DEFAULT_SCENARIO = "resnet50_8gpu"


def batch_streams(scenario: str | BatchScenario, split: str, count: int) -> list[BatchEpisodeStream]:
    """Streams of a scenario, or of the one of a name in conf/scenario."""
    if isinstance(scenario, str):
        scenario = load_batch_scenario(scenario)
    return [BatchEpisodeStream(scenario, split) for _ in range(count)]


def deferred_batching_problem(
    streams: list[BatchEpisodeStream], autoscaler: Autoscaler | None, flat: bool
) -> Problem[BatchWorkload]:
    """An episode of each stream, flat or not."""
    scenario = streams[0].scenario
    cluster = scenario.cluster
    episodes = DeferredBatchingEpisodes(scenario, len(streams), streams[0].max_requests, autoscaler)
    return Problem(
        streams,
        episodes,
        episodes.step,
        episodes.observation,
        observation_space(len(cluster.models), cluster.num_gpus, cluster.has_limited_memory, flat),
        gym.spaces.Discrete(1 + 2 * cluster.num_gpus),
        lambda episode_id, _: summarise_batches(episodes.results(episode_id), cluster),
        flat,
    )


class DeferredBatchingEnv(NativeEnv):
    """Many models share equal GPUs, requests have deadlines: when does which batch run where?

    One model at a time is asked about, while a GPU is idle: after an arrival of it, when a GPU is freed, and
    when the window of its candidate opens, is about to close, or has closed (docs/batch_serving.md, "The
    decision of an agent"). The candidate is the batch that Symphony would gather now.

    Observation: a Dict, models and GPUs as a graph (envs/deferred_batching/observation.py), or one Box of the
        same numbers in this order with `flat=True`:
        candidate  float32 (15,)    of the model asked about: size and end of its two batches, what they
                                    leave behind, its window, its queue, its measured rate
        models     float32 (M, 10)  of each model: whether it is asked about, queue, slack, target, rate,
                                    latencies, objective, candidate
        gpus       float32 (G, 7)   of each GPU: active, idle, since when, until when it is busy, batch,
                                    whether it has the weights of the model asked about
        weights    float32 (G, M)   where GPUs have limited memory only: which GPU has whose weights
    Action: Discrete(1 + 2 G).
        0            wait
        1 + g        send the candidate to GPU g, and drop what it leaves behind: requests in whose favour it
                     would be smaller than the rate demands
        1 + G + g    send the batch to GPU g for which only 3/4 of that size is demanded: it keeps more
        Legal are idle GPUs, and to wait, unless nothing could ever end the wait; `action_masks()` gives this
        as bool (1 + 2 G,), as MaskablePPO wants it. An illegal action raises ValueError and changes nothing.
    Reward: minus the increase of what the episode costs (envs/deferred_batching/reward.py): 1 for each
        request dropped, or sent so that it is late, and what the scenario's objective weighs beside. With
        `gpu_weight = energy_weight = 0` the undiscounted return is minus the number of bad requests.
    Termination: when no request is left; `info["episode_metrics"]` sums the episode up. No time limit.
    Episodes: the scenario's training traffic, or its test traffic with `split="test"`; `reset(seed=s)`
        starts stream s, and every later reset without a seed goes on in it.

    Rendering: `render_mode="rgb_array"` gives pictures of the cluster (envs/deferred_batching/viewer.py),
        "human" shows them in a window after every reset and step.

    Arguments: scenario, the name of one of batch serving in conf/scenario or a `BatchScenario`; split,
    "train" or "test"; autoscaler, who says how many GPUs there are (None: always all); flat and render_mode,
    see above.

    >>> import gymnasium as gym
    >>> env = gym.make("servegym.envs:servegym/DeferredBatching-v0", scenario="resnet50_8gpu")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:  # at once, to the first idle GPU
    ...     first_idle = int(observation["gpus"][:, 1].argmax())
    ...     observation, reward, terminated, truncated, info = env.step(1 + first_idle)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> -total == round(metrics["bad_share"] * metrics["num_requests"])
    True
    """

    _episodes: DeferredBatchingEpisodes

    def __init__(
        self,
        scenario: str | BatchScenario = DEFAULT_SCENARIO,
        split: str = "train",
        autoscaler: Autoscaler | None = None,
        flat: bool = False,
        render_mode: str | None = None,
    ) -> None:
        streams = batch_streams(scenario, split, 1)
        cluster = streams[0].scenario.cluster
        super().__init__(
            deferred_batching_problem(streams, autoscaler, flat),
            render_mode,
            "servegym/DeferredBatching-v0",
            lambda figure: lay_out(figure, cluster),
        )

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        simulation = self._episodes.simulations[0]
        seen = ClusterSnapshot.of(fields_of(simulation.state), PAST * span_of(simulation.cluster))
        num_gpus = simulation.cluster.num_gpus
        last = "none" if self._last_action is None else words(int(self._last_action), num_gpus)
        facts = (
            ("time", f"{seen.time_s:,.3f} s"),
            ("arrived", f"{seen.num_arrived:,} of {seen.num_requests:,}"),
            ("bad", f"{seen.num_bad:,}"),
            ("waiting", f"{seen.waiting.sum():,}"),
            ("idle GPUs", f"{seen.idle.sum()} of {num_gpus}"),
            ("last decision", last),
        )
        return facts, (seen, seen, seen.past())
