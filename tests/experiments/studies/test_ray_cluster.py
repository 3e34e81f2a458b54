"""A Ray cluster, of several processes on this machine: the same bits, whichever of them is killed."""

from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.compose import compose_scenario
from servegym.experiments.cli import main
from servegym.experiments.studies.ray_cluster import simulate_on_ray
from servegym.experiments.studies.shards import shards_of
from servegym.experiments.studies.study_config import StudyConfig
from tests.experiments.commands import SMALL_SCENARIO
from tests.experiments.studies.made_up_studies import (
    LONGER_STUDY,
    contents,
    killing_a_worker,
)

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes by their open files"),
]


def test_same_bits_as_locally_though_a_worker_is_killed(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "study"
    with killing_a_worker(out, after=2) as killed:
        assert main(["study", *LONGER_STUDY, "backend=ray", f"out={out}"]) == 0
    assert len(killed) == 1
    assert contents(out) == undisturbed
    assert not ray.is_initialized()


def test_a_machine_with_other_requests_is_refused(tmp_path: Path) -> None:
    scenario = compose_scenario("generated_8xh100", SMALL_SCENARIO[1:])
    settings = StudyConfig(scenario=scenario, router={"name": "jsq"}, episodes=2, out=str(tmp_path))
    ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        with pytest.raises(InputError, match="must be there for all workers or for none"):
            simulate_on_ray(settings, "a trace", tmp_path, shards_of(settings), 1, lambda *_: None)
        assert ray.is_initialized()  # whose cluster it is, ends it
    finally:
        ray.shutdown()
