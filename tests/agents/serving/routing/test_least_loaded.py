"""What decides when a policy does not."""

import numpy as np

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES
from servegym.agents.serving.contracts import ILLEGAL
from servegym.agents.serving.routing.fleet_view import AVAILABLE, RUNNING, SPEED, UNSEEN_REQUESTS, WAITING
from servegym.agents.serving.routing.least_loaded import LeastLoaded

REQUEST = np.zeros(4, np.float32)


def _rows(*loads: float) -> np.ndarray:
    rows = np.zeros((len(loads), len(REPLICA_FEATURES)), np.float32)
    rows[:, AVAILABLE] = rows[:, SPEED] = 1
    rows[:, WAITING] = loads
    return rows


def test_few_requests_running_waiting_or_unseen() -> None:
    rows = _rows(3, 0, 0, 0)
    rows[1, RUNNING], rows[2, UNSEEN_REQUESTS], rows[3, RUNNING] = 2, 4, 5
    assert np.argsort(-LeastLoaded().scores(REQUEST, rows)).tolist() == [1, 0, 2, 3]


def test_twice_as_fast_may_have_twice_as_many() -> None:
    rows = _rows(4, 7, 9)
    rows[1, SPEED] = 2.0
    rows[2, SPEED] = 0.0  # unknown, or slow without bounds: never better for it
    assert LeastLoaded().scores(REQUEST, rows).argmax() == 1


def test_who_is_not_available_is_never_chosen() -> None:
    rows = _rows(0, 9)
    rows[0, AVAILABLE] = 0
    scores = LeastLoaded().scores(REQUEST, rows)
    assert scores[0] <= ILLEGAL < scores[1] and scores.dtype == np.float32


def test_equal_ones_take_turns_and_one_request_decides_before_that() -> None:
    policy = LeastLoaded()
    chosen = [int(policy.scores(REQUEST, _rows(*[1000] * 5)).argmax()) for _ in range(10)]
    assert sorted(chosen[:5]) == sorted(chosen[5:]) == [0, 1, 2, 3, 4]
    for _ in range(10):
        assert policy.scores(REQUEST, _rows(1001, 1001, 1000, 1001)).argmax() == 2
    assert np.isfinite(policy.scores(REQUEST, _rows(*[1e6] * 256))).all()
