"""Dynamic batching on one server as a semi-Markov decision process, solved exactly."""

from servegym.agents.smdp.cheapest import cheapest
from servegym.agents.smdp.evaluate import Evaluation, evaluate
from servegym.agents.smdp.policy import BatchTablePolicy, control_limit, control_limit_of, greedy, static
from servegym.agents.smdp.simulation import Act, SimulatedCost, play, simulate_batching
from servegym.agents.smdp.solve import Solution, solve

__all__ = [
    "Act",
    "BatchTablePolicy",
    "Evaluation",
    "SimulatedCost",
    "Solution",
    "cheapest",
    "control_limit",
    "control_limit_of",
    "evaluate",
    "greedy",
    "play",
    "simulate_batching",
    "solve",
    "static",
]
