"""Dynamic batching on one server as a semi-Markov decision process, solved exactly."""

from servegym.agents.smdp.evaluate import Evaluation, evaluate
from servegym.agents.smdp.policy import BatchTablePolicy, control_limit, control_limit_of, greedy, static
from servegym.agents.smdp.simulation import Simulation, simulate_batching
from servegym.agents.smdp.solve import Solution, solve

__all__ = [
    "BatchTablePolicy",
    "Evaluation",
    "Simulation",
    "Solution",
    "control_limit",
    "control_limit_of",
    "evaluate",
    "greedy",
    "simulate_batching",
    "solve",
    "static",
]
