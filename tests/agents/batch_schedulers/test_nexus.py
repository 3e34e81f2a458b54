"""Nexus's rule, by hand.

A batch of b takes 1 + b s. Of 1 request/s of a model with an objective of 20 s, 8/9 fill a GPU with batches
of 8 in 9 s. The rest, 1/9 request/s, is a session; those of two models share a GPU.
"""

from servegym.envs.sim.batch.state import GOOD
from tests.agents.batch_schedulers.clusters import model_of, serve

TWO = [model_of(20.0), model_of(20.0)]


def test_models_fill_gpus_of_their_own() -> None:
    """Before a rate is known it is 1 request/s: GPU 0 is model 0's, GPU 1 is model 1's."""
    _, batches = serve("nexus", TWO, 2, [(0.0, 1), (0.1, 1), (0.2, 0)])
    assert batches == [(0, 1, 1, 1), (0.2, 0, 0, 1), (2, 1, 1, 1)]


def test_what_is_left_shares_a_gpu() -> None:
    """GPU 2, which serves whoever of both finds his own busy."""
    requests = [(0.0, 1), (0.1, 1), (0.2, 0), (0.3, 0), (0.4, 1)]
    _, batches = serve("nexus", TWO, 3, requests)
    assert batches == [(0, 1, 1, 1), (0.1, 1, 2, 1), (0.2, 0, 0, 1), (2, 1, 1, 1), (2.1, 0, 2, 1)]


def test_a_shared_gpu_takes_turns() -> None:
    """At 2.2 GPU 2 has served model 0, so that model 1 is next, though the other comes first in the plan."""
    requests = [(0.0, 0), (0.1, 1), (0.2, 0), (0.3, 0), (0.4, 0), (2.05, 1), (2.15, 0), (2.15, 1)]
    _, batches = serve("nexus", TWO, 3, requests)
    assert batches[:3] == [(0, 0, 0, 1), (0.1, 1, 1, 1), (0.2, 0, 2, 1)]
    assert batches[3:] == [(2, 0, 0, 2), (2.1, 1, 1, 1), (2.2, 1, 2, 1), (4.2, 0, 2, 1)]


def test_gpus_left_over_repeat_the_plan() -> None:
    """A model alone has two entries, its own GPU and that of its rest; GPUs 2 and 3 are like 0 and 1."""
    _, batches = serve("nexus", [model_of(20.0)], 4, [(0.1 * i, 0) for i in range(4)])
    assert [gpu for _, _, gpu, _ in batches] == [0, 1, 2, 3]


def test_a_new_plan_follows_the_rates() -> None:
    """At 10 model 1 has had no requests, and gets no GPU. At 20 it has had one, which has waited for it."""
    requests = [(float(i), 0) for i in range(30)]
    requests.insert(11, (10.5, 1))
    results, _ = serve("nexus", TWO, 4, requests, beacon_s=10.0, least_epoch_s=10.0)
    assert results.start_s[11] == 20
    assert (results.outcome == GOOD).all()
    results, _ = serve("nexus", TWO, 4, requests, beacon_s=10.0, least_epoch_s=100.0, epoch_s=100.0)
    assert results.start_s[11] == 10.5
