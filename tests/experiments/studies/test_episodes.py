"""Episodes of a study: each has its own seed, and requests of the split."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.compose import compose_scenario
from servegym.experiments.studies.episodes import Episodes
from servegym.experiments.studies.study_config import StudyConfig
from tests.experiments.commands import SMALL_SCENARIO


def episodes_of(
    name: str = "generated_8xh100", words: tuple[str, ...] = SMALL_SCENARIO[1:], **settings: object
) -> Episodes:
    known = {"scenario": compose_scenario(name, words), "router": {"name": "random"}, "episode_requests": 50}
    return Episodes(StudyConfig(**{**known, **settings}))  # type: ignore[arg-type]


def test_an_episode_is_the_same_in_any_order_and_company() -> None:
    several, alone = episodes_of(episodes=9), episodes_of(episodes=4)
    for episode in (7, 0):
        several.simulate(episode)
    first, again = several.simulate(3)[0], alone.simulate(3)[0]
    for column in ("arrival_s", "output_tokens", "replica", "finish_s"):
        np.testing.assert_array_equal(getattr(first, column), getattr(again, column))


def test_episodes_seeds_and_training_have_nothing_in_common() -> None:
    """Each draws its own arrivals; those of the first training episode and test workload are others."""
    arrivals = [
        *(
            episodes_of(seed=seed).simulate(episode)[0].arrival_s[1:6]
            for seed in (0, 1)
            for episode in (0, 1)
        ),
        load_scenario("generated_8xh100", SMALL_SCENARIO[1:]).traffic.test_workload(0).arrival_s[1:6],
        load_scenario("generated_8xh100", SMALL_SCENARIO[1:])
        .traffic.train_workload(np.random.SeedSequence(0).spawn(1)[0])
        .arrival_s[1:6],
    ]
    assert len({tuple(each) for each in arrivals}) == len(arrivals)


def test_the_router_draws_its_own_numbers_in_each_episode() -> None:
    """All requests at once would go the same way if two episodes shared them."""
    episodes = episodes_of()
    first, second = (episodes.simulate(episode)[0].replica for episode in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_trace_gives_requests_of_its_part_alone(real_data: Callable[[str], Path], split: str) -> None:
    real_data("traces/azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz")
    words = ("scenario.fleet.replicas=8",)
    episodes = episodes_of("azure_conv_8xh100", words, split=split, episode_requests=20_000)
    results, _ = episodes.simulate(0)
    part = episodes.scenario.traffic.parts[0 if split == "train" else 1]
    assert results.arrival_s[0] == 0 and len(results.arrival_s) == 20_000 > part.num_requests
    lengths = set(zip(part.prompt_tokens.tolist(), part.output_tokens.tolist(), strict=True))
    drawn = set(zip(results.prompt_tokens.tolist(), results.output_tokens.tolist(), strict=True))
    assert drawn <= lengths
    assert len(drawn) > 0.9 * len(lengths)


def test_who_has_other_requests_does_not_take_part() -> None:
    with pytest.raises(
        InputError, match=r"scenario\.workload\.trace = None: must be there for all workers or"
    ):
        episodes_of().require_source("trace of another machine")
