import pytest

from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.model import ServedModel
from tests.reference.batch.fleet import Fleet
from tests.reference.batch.hand import batches, model, run
from tests.reference.batch.request import UNSERVED
from tests.reference.batch.schedulers.nexus_plan import make_plan


def fleet(betas, num_gpus=8, slo_s=20.0):
    """`l(b) = beta + b` seconds, up to 4 requests."""
    models = [ServedModel("m", tuple(beta + b for b in range(1, 5)), slo_s) for beta in betas]
    return Fleet(BatchCluster(tuple(models), num_gpus), num_gpus)


def nodes(served, rates):
    return [[(s.model, s.target) for s in node.sessions] for node in make_plan(served, rates).nodes]


def test_a_rate_that_fills_whole_gpus():
    """4 requests in l(4) = 8 s on each of two."""
    assert nodes(fleet([4.0]), [1.0]) == [[(0, 4)], [(0, 4)]]


def test_what_is_left_of_a_rate():
    """0.75 fills one; 0.25 is left, whose largest batch has `4 + b + 4 b <= 20`."""
    served = fleet([4.0])
    assert nodes(served, [0.75]) == [[(0, 4)], [(0, 3)]]
    node = make_plan(served, [0.75]).nodes[1]
    assert node.duty_s == pytest.approx(12) and node.occupancy == pytest.approx(7 / 12)


def test_leftovers_share_a_gpu():
    """Duty cycles of 12 and 10: in 10 s there are batches of 3 and 1, which take 7 + 2."""
    plan = make_plan(fleet([4.0, 1.0]), [0.25, 0.1])
    assert nodes(fleet([4.0, 1.0]), [0.25, 0.1]) == [[(0, 3), (1, 1)]]
    assert plan.nodes[0].occupancy == pytest.approx(0.9)


def test_leftovers_that_do_not_fit_together():
    """In 10 s `3 + 4` and `3 + 4` each take 7."""
    assert nodes(fleet([4.0, 4.0]), [0.25, 0.25]) == [[(0, 3)], [(1, 3)]]


def test_no_more_nodes_than_gpus():
    assert nodes(fleet([4.0, 4.0], num_gpus=1), [0.25, 0.25]) == [[(0, 3)]]


def test_a_gpu_takes_turns_over_its_models():
    """At a rate of 1 for all, both fit on one GPU; batches of 1 each."""
    results = run([(0, 0), (0, 0), (1, 1)], [model([5], slo=4096)] * 2, "nexus")
    assert batches(results) == [(0, [0], 0, 5), (0, [2], 5, 10), (0, [1], 10, 15)]


def test_a_new_plan_follows_the_rates():
    """One GPU for two models that both fill it: at first 1 has none. After 10 s only 1 is asked for."""
    models = [model([600], slo=1300)] * 2
    arrivals = [(1024.0 * at, int(at > 0)) for at in range(15)]
    results = run(arrivals, models, "nexus")
    gpu_by_request = list(results.gpu)
    assert gpu_by_request[0] == 0 and set(gpu_by_request[1:10]) == {-1}
    assert gpu_by_request[-1] == 0
    assert UNSERVED not in results.outcome
