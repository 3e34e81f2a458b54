"""Training of predictors of output lengths; `envs/workloads/learned_predictor.py` evaluates them."""

from servegym.agents.length_predictor.losses import LOSSES
from servegym.agents.length_predictor.quality import Quality, quality
from servegym.agents.length_predictor.training import train_predictor

__all__ = ["LOSSES", "Quality", "quality", "train_predictor"]
