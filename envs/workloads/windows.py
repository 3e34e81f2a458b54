"""Cut a trace in time: one part to fit and train on, one part held out."""

from dataclasses import replace

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import Workload


def split(workload: Workload, test_s: float) -> tuple[Workload, Workload]:
    """(train, test): test is what arrives in the last `test_s` seconds, train is everything before.

    The cut lies `test_s` before the last arrival; a request at the cut is in test, and every request is in
    exactly one part. Train keeps its times, test starts at the cut as its time 0. Raises `InputError`
    unless 0 < test_s < `duration_s`, so neither part is empty.
    """
    if not 0 < test_s < workload.duration_s:
        raise InputError(
            f"held-out part of workload {workload.name!r} is {test_s} s, "
            f"allowed: above 0 and below its duration of {workload.duration_s:.6g} s"
        )
    cut_s = float(workload.arrival_s[-1]) - test_s
    in_test = workload.arrival_s >= cut_s
    test = workload.take(in_test)
    return workload.take(~in_test), replace(test, arrival_s=test.arrival_s - cut_s)
