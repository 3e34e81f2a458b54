"""Episodes whose requests share prompts: each hits what the same fleet would hit outside the environment."""

import json
from pathlib import Path

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.envs.routing.episodes import RoutingEpisodes
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.simulate import simulate


def shared_prompts(folder: Path) -> Scenario:
    """Two replicas, and a trace of prompts that begin in one of 4 ways."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(200):
        way, blocks = int(rng.integers(4)), int(rng.integers(1, 5))
        hashes = [10 * way + depth for depth in range(blocks)]
        record = {"timestamp": 500 * i, "input_length": 512 * blocks, "output_length": 20, "hash_ids": hashes}
        lines.append(json.dumps(record))
    (folder / "trace.jsonl").write_text("\n".join(lines))
    return load_scenario(
        "generated_8xh100",
        (
            f"scenario.workload.trace={folder / 'trace.jsonl'}",
            "scenario.workload.format=mooncake",
            "scenario.workload.test_s=40",
            "scenario.episode.requests=50",
            "scenario.fleet.replicas=2",
            "scenario.engine.num_kv_blocks=400",
            "engine@scenario.engine=vllm_v1_prefix_caching",
        ),
    )


def test_hits_are_those_of_the_simulator(tmp_path: Path) -> None:
    """In every one of 3 episodes side by side, and again where slots are used a second time."""
    scenario = shared_prompts(tmp_path)
    episodes = RoutingEpisodes(scenario, 3, 50)
    for seeds in ((0, 1, 2), (3, 4, 0)):
        workloads = [scenario.traffic.train_workload(np.random.SeedSequence(seed)) for seed in seeds]
        for number, workload in enumerate(workloads):
            episodes.begin(number, workload)
        for decision in range(50):
            episodes.step(np.full(3, decision % 2))
        for number, workload in enumerate(workloads):
            expected = simulate(
                workload,
                make_router("round_robin"),
                num_replicas=2,
                engine=scenario.engine,
                cost=scenario.cost,
            )
            found = episodes.results(number)
            assert expected.hit_tokens.sum() > 0.2 * workload.prompt_tokens.sum()
            np.testing.assert_array_equal(found.hit_tokens, expected.hit_tokens)
            np.testing.assert_allclose(found.finish_s, expected.finish_s, rtol=1e-12)
