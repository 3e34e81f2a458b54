"""`ElasticCost`: its formulas by hand, and tables that cannot be."""

import numpy as np
import pytest

from servegym.costmodels.elastic.cost import (
    attention_seconds,
    linear_elastic_cost,
    master_seconds,
    migration_seconds,
    prefill_seconds,
    validate_elastic_cost,
)
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost

ITERATION = linear_iteration_cost(
    max_num_batched_tokens=8, max_num_seqs=8, overhead_s=3e-3, per_token_s=1e-3, per_kv_token_s=1e-6
)
COST = linear_elastic_cost(
    4, constant_s=0.5, per_token_s=0.25, per_token_squared_s=0.125, far=8.0, iteration=ITERATION
)


def test_prefill_by_hand():
    assert prefill_seconds(COST, 0, 1, 10, 52) == 0.5 + 0.25 * 10 + 0.125 * 52
    assert prefill_seconds(COST, 0, 4, 10, 52) == 0.5 + 0.0625 * 10 + 0.03125 * 52
    assert prefill_seconds(COST, 1, 4, 10, 52) == 4.0 + 0.0625 * 10 + 0.03125 * 52


def test_decode_by_hand():
    assert master_seconds(COST, 3) == pytest.approx(6e-3)
    assert attention_seconds(COST, 3, 5000) == pytest.approx(5e-3)


def test_migration_by_hand():
    cost = COST._replace(migrate_s_per_token=np.array([0.5, 2.0]), migrate_latency_s=np.array([1.0, 16.0]))
    assert migration_seconds(cost, 0, 10) == 6.0
    assert migration_seconds(cost, 1, 10) == 36.0


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("prefill_s", np.ones((2, 1, 3)), "covers no instance"),
        ("prefill_s", np.ones((1, 5, 3)), r"shape \(1, 5, 3\), must be \(2, 5, 3\)"),
        ("prefill_s", np.zeros((2, 5, 3)), "a prefill takes no time"),
        ("prefill_s", -np.ones((2, 5, 3)), "holds -1"),
        ("exchange_s", np.zeros((2, 3)), r"shape \(2, 3\), must be \(2, 9\)"),
        ("exchange_s", np.zeros((2, 9), np.float32), "float32, must be C-contiguous float64"),
        ("migrate_s_per_token", np.array([1.0, np.inf]), "holds inf"),
        ("migrate_latency_s", np.zeros(1), r"shape \(1,\), must be \(2,\)"),
        ("decode_s", -1.0, "decode_s is -1.0"),
        ("decode_s", np.nan, "decode_s is nan"),
        ("iteration", ITERATION._replace(overhead_s=-1.0), "overhead_s holds -1"),
    ],
)
def test_refused(field, value, words):
    with pytest.raises(InputError, match=words):
        validate_elastic_cost(COST._replace(**{field: value}))
