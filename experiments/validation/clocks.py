"""The clocks that `servegym validate e2e` and `peers` compare: iteration tables by where they come from."""

from servegym.costmodels.errors import InputError
from servegym.costmodels.operators.calibrated import calibrated_roofline
from servegym.costmodels.operators.kernel_model import KernelModel
from servegym.costmodels.operators.measured_kernels import MeasuredKernels, vllm_tables
from servegym.costmodels.specs import GpuSpec
from servegym.envs.workloads import find_data

CLOCKS = ("roofline", "calibrated", "measured")
DATA = "kernels/aiconfigurator"


def kernels_of(clock: str, gpu: GpuSpec, data: str | None = None) -> KernelModel | None:
    """The kernel times of a clock; None for "roofline", which `compile_iteration_cost` does without.

    `data`: folder of tables in aiconfigurator's layout, for "measured". Raises InputError for a name that is
    none of CLOCKS, and where the tables are missing.
    """
    if clock not in CLOCKS:
        raise InputError(f"clock = {clock}: must be one of {', '.join(CLOCKS)}")
    if clock == "roofline":
        return None
    if clock == "calibrated":
        return calibrated_roofline(gpu)
    folder = data if data is not None else find_data(DATA)
    if folder is None:
        raise InputError(f"clock measured: {DATA} is not there: give data=FOLDER, or set SERVEGYM_DATA")
    return MeasuredKernels(vllm_tables(folder, gpu.name), gpu)
