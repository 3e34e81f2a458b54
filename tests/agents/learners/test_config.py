"""Values out of range are refused, by the name of their key."""

import pytest

from servegym.agents.learners.config import PPOConfig
from servegym.costmodels.errors import InputError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "transformer"),
        ("hidden", 0),
        ("layers", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("final_learning_rate", -1e-4),
        ("n_steps", 0),
        ("batch_size", 0),
        ("n_epochs", 0),
        ("gamma", 1.01),
        ("gae_lambda", 0.0),
        ("clip_range", -0.2),
        ("ent_coef", -1.0),
        ("vf_coef", -1.0),
        ("max_grad_norm", 0.0),
    ],
)
def test_bad_value_is_named(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"agent\.{key} = "):
        PPOConfig(**{key: value})  # type: ignore[arg-type]


def test_undiscounted_returns_are_allowed() -> None:
    assert PPOConfig(gamma=1.0, gae_lambda=1.0).gamma == 1.0
