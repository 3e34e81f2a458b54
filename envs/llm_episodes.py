"""What the environments of LLM fleets share: where their episodes come from, and what is said of them."""

from collections.abc import Callable
from typing import Protocol

from servegym.costmodels.errors import InputError
from servegym.envs.metrics import summarise
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.scenario.stream import EpisodeStream
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload


class HasResults(Protocol):
    """Episodes of LLM fleets."""

    def results(self, episode_id: int) -> Results:
        """What happened to the requests of an episode so far."""


def episode_streams(scenario: str | Scenario, split: str, count: int) -> list[EpisodeStream]:
    """Streams of a scenario, or of the one of a name in conf/scenario; InputError for one with a ranking."""
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    if scenario.ranking is not None:
        raise InputError(
            f"scheduler {scenario.ranking.name}: must be none in an environment, whose engines schedule as "
            "scenario.engine.scheduler says"
        )
    return [EpisodeStream(scenario, split) for _ in range(count)]


def episode_summary(
    scenario: Scenario,
    episodes: HasResults,
    energy_j: Callable[[int], float | None] = lambda episode_id: None,
) -> Callable[[int, Workload], dict[str, float]]:
    """Summarises an episode that is over, with what its requests were promised.

    energy_j: joules of such an episode; None where they are not counted.
    """

    def of(episode_id: int, workload: Workload) -> dict[str, float]:
        results, joules = episodes.results(episode_id), energy_j(episode_id)
        summary = summarise(results, scenario.slo_limits(workload))
        if joules is not None:
            per_token = joules / float(results.output_tokens.sum())
            summary |= {"energy_j": joules, "energy_j_per_output_token": per_token}
        return summary

    return of
