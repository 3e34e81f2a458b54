"""Request streams: the `Workload`, readers of traces, generators, length predictors, where the data are."""

from servegym.envs.workloads.data import find_data
from servegym.envs.workloads.fitted_workload import FittedWorkload, load_fitted
from servegym.envs.workloads.generators import generate
from servegym.envs.workloads.learned_predictor import LearnedPredictor
from servegym.envs.workloads.length_tables import LengthTable, read_lengths
from servegym.envs.workloads.lengths import ConstantLengths, GeometricLengths, JointLengths, Lengths
from servegym.envs.workloads.mooncake import read_mooncake
from servegym.envs.workloads.predictors import PREDICTORS, noisy_predictions, refined_remaining
from servegym.envs.workloads.readers import READERS, read_azure, read_csv, read_trace
from servegym.envs.workloads.servegen import read_servegen
from servegym.envs.workloads.slo import SloClass
from servegym.envs.workloads.windows import split
from servegym.envs.workloads.workload import Workload

__all__ = [
    "PREDICTORS",
    "READERS",
    "ConstantLengths",
    "FittedWorkload",
    "GeometricLengths",
    "JointLengths",
    "LearnedPredictor",
    "LengthTable",
    "Lengths",
    "SloClass",
    "Workload",
    "find_data",
    "generate",
    "load_fitted",
    "noisy_predictions",
    "read_azure",
    "read_csv",
    "read_lengths",
    "read_mooncake",
    "read_servegen",
    "read_trace",
    "refined_remaining",
    "split",
]
