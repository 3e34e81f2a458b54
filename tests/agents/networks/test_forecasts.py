"""What networks foretell is what the routers of the same names do."""

import numpy as np
import torch

from servegym.agents.heuristics import make_router
from servegym.agents.heuristics.forecasts import completion_s, ttft_s
from servegym.agents.networks.forecasts import FORECASTS, LONGEST_S, forecasts
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.routing.observation import PARTS
from servegym.envs.sim.llm import view


def test_equal_to_those_of_routers() -> None:
    observation = plausible_observation("router", np.random.default_rng(0), 200, 5)
    found = forecasts(*(torch.from_numpy(observation[name]) for name in PARTS)).numpy()
    for k in range(200):
        told = observation["setting"][k].astype(np.float64)
        request = observation["request"][k].astype(np.float64)
        rows = observation["replicas"][k].astype(np.float64)
        for replica in range(5):
            due = ttft_s(rows[replica], request, told)
            if due >= LONGEST_S:
                continue
            np.testing.assert_allclose(found[k, replica, FORECASTS.index("ttft_s")], due, rtol=1e-3)
            own = completion_s(rows[replica], request, told)
            np.testing.assert_allclose(found[k, replica, FORECASTS.index("own_latency_s")], own, rtol=1e-3)


def test_least_marginal_latency_is_the_routers_choice() -> None:
    observation = plausible_observation("router", np.random.default_rng(1), 300, 6)
    observation["replicas"][..., view.AVAILABLE] = 1.0
    observation["setting"][:] = observation["setting"][0]
    found = forecasts(*(torch.from_numpy(observation[name]) for name in PARTS)).numpy()
    told = observation["setting"][0].astype(np.float64)
    router = make_router(
        "marginal_latency",
        token_budget=int(told[view.TOKEN_BUDGET]),
        block_size=int(told[view.BLOCK_SIZE]),
        mean_output_tokens=float(told[view.MEAN_OUTPUT_TOKENS]),
        clock=LinearClock(*told[: view.TOKEN_BUDGET].tolist()),
    )
    rows = np.full((300, 6, view.ROUTER_REPLICA_FEATURES), -1.0)
    rows[..., : view.REPLICA_FEATURES] = observation["replicas"]
    requests = np.full((300, view.ROUTER_REQUEST_FEATURES), -1.0)
    requests[:, : view.REQUEST_FEATURES] = observation["request"]
    random_state = np.zeros(1, np.uint64)
    chosen = [
        router.choose(rows[k], requests[k], router.parameters, np.zeros(0), random_state) for k in range(300)
    ]
    assert np.mean(found[..., FORECASTS.index("marginal_latency_s")].argmin(axis=1) == chosen) > 0.99


def test_who_is_on_the_way_counts_as_queued() -> None:
    observation = plausible_observation("router", np.random.default_rng(2), 1, 2)
    observation["replicas"][0, 1] = observation["replicas"][0, 0]
    observation["replicas"][0, :, view.UNSEEN_REQUESTS] = 0.0
    observation["replicas"][0, :, view.UNSEEN_PREFILL_TOKENS] = [0.0, 4096.0]
    fresh, behind = forecasts(*(torch.from_numpy(observation[name]) for name in PARTS))[0, :, 0]
    assert behind > fresh


def test_latency_among_all_who_wait() -> None:
    observation = plausible_observation("router", np.random.default_rng(3), 50, 4)
    for column in (view.WAITING, view.RUNNING, view.UNSEEN_REQUESTS, view.QUEUED_PREFILL_TOKENS):
        observation["replicas"][:, 0, column] = 0.0
    found = forecasts(*(torch.from_numpy(observation[name]) for name in PARTS)).numpy()
    own, crowded = (
        found[..., FORECASTS.index("own_latency_s")],
        found[..., FORECASTS.index("crowded_latency_s")],
    )
    np.testing.assert_allclose(crowded[:, 0], own[:, 0], rtol=1e-5)
    told = observation["setting"].astype(np.float64)[:, None]
    request = observation["request"].astype(np.float64)[:, None]
    rows = observation["replicas"].astype(np.float64)
    output = np.maximum(
        1.0,
        np.where(
            request[..., view.PREDICTED_OUTPUT_TOKENS] > 0,
            request[..., view.PREDICTED_OUTPUT_TOKENS],
            told[..., view.MEAN_OUTPUT_TOKENS],
        ),
    )
    slower = (output - 1.0) * (
        told[..., view.S_PER_DECODE] * rows[..., view.WAITING]
        + told[..., view.S_PER_CONTEXT_TOKEN] * rows[..., view.QUEUED_PREFILL_TOKENS]
    )
    prefill = told[..., view.S_PER_PREFILL_TOKEN] * (
        request[..., view.PROMPT_TOKENS] - rows[..., view.PREFIX_HIT_TOKENS]
    )
    delay = prefill * (rows[..., view.RUNNING] + rows[..., view.UNSEEN_REQUESTS] + rows[..., view.WAITING])
    expected = own + (slower + delay) / rows[..., view.SPEED]
    there = rows[..., view.SPEED] > 0.01
    np.testing.assert_allclose(crowded[there], expected[there], rtol=1e-3)
