"""Rules over the observations of `servegym/ElasticSequenceParallel-v0`."""

import numpy as np

from servegym.envs.elastic_sequence_parallel.observation import (
    CHOICE,
    CHOICE_FEATURES,
    GROUP,
    LEGAL,
    Observation,
)


def _prefills(observation: Observation) -> np.ndarray:
    """(K, 2, N, F): what prefills in both orders at each degree would mean."""
    num_instances = observation["instances"].shape[1]
    rows = observation["choices"][:, 1 : 1 + 2 * num_instances]
    prefills: np.ndarray = rows.reshape(len(rows), 2, num_instances, CHOICE_FEATURES)
    return prefills


class FirstComeFirstServed:
    """Prefills in order of arrival on all instances that can be had; groups go on as they are."""

    name = "first_come_first_served"

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        legal = _prefills(observation)[:, 0, :, LEGAL] > 0
        degrees = np.arange(1, legal.shape[1] + 1)
        return _or_any(observation, (legal * degrees).max(axis=1))


class ShortestFirst:
    """Prefills shortest first on `degree` instances, or more where needed; groups go on as they are."""

    name = "shortest_first"

    def __init__(self, degree: int = 1) -> None:
        self.degree = degree

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        legal = _prefills(observation)[:, 1, :, LEGAL] > 0
        num_instances = legal.shape[1]
        enough = legal & (np.arange(1, num_instances + 1) >= self.degree)
        chosen = num_instances + 1 + enough.argmax(axis=1)
        return _or_any(observation, np.where(enough.any(axis=1), chosen, 0))


class GainAndLoss:
    """LoongServe's tests (Wu et al., SOSP 2024, section 5) as one rule over what each prefill would mean.

    A prefill that interrupts decodes must be worth it: the sum of `1 / n` over its batch, for the `slack` for
    which it would wait otherwise, is at least the seconds it takes times the sum of `1 / out` over those
    interrupted. Of these the one whose sum is largest, less the seconds that both sides lose meanwhile.
    `slack` is the time that the longest running group still decodes, at `decoding_s` an iteration, at least
    10 iterations: outputs are known here, where LoongServe estimates them. Groups go on as they are.
    """

    name = "gain_and_loss"

    def __init__(self, decoding_s: float = 0.022) -> None:
        self.decoding_s = decoding_s

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        num_instances = observation["instances"].shape[1]
        rows = observation["choices"][:, 1 : 1 + 2 * num_instances]
        groups = observation["groups"]
        left = np.where(groups[..., GROUP["decodes"]] > 0, groups[..., GROUP["most_left"]], 0.0).max(axis=1)
        slack_s = self.decoding_s * np.maximum(10.0, left)[:, None]
        gain, lost = rows[..., CHOICE["gain"]], rows[..., CHOICE["interrupted_out"]]
        seconds = rows[..., CHOICE["begins_s"]] + rows[..., CHOICE["seconds"]]
        worth = (rows[..., LEGAL] > 0) & (slack_s * gain >= seconds * lost)
        value = np.where(worth, slack_s * gain - seconds * (gain + lost), -np.inf)
        return _or_any(observation, np.where(worth.any(axis=1), 1 + value.argmax(axis=1), 0))


def _or_any(observation: Observation, actions: np.ndarray) -> np.ndarray:
    """The first that is legal instead of those that are not."""
    legal = observation["choices"][..., LEGAL] > 0
    is_legal = np.take_along_axis(legal, actions[:, None], axis=1)[:, 0]
    return np.where(is_legal, actions, legal.argmax(axis=1))
