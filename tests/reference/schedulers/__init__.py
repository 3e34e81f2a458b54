"""One scheduler a file: each fills `replica.batch` for the iteration that starts now."""

from tests.reference.schedulers import (
    lightllm,
    multi_bin,
    orca,
    ranked,
    sarathi,
    sglang,
    static,
    vllm_v0,
    vllm_v1,
)

SCHEDULE = {
    "vllm_v1": vllm_v1.schedule,
    "sarathi": sarathi.schedule,
    "vllm_v0": vllm_v0.schedule,
    "orca": orca.schedule,
    "lightllm": lightllm.schedule,
    "sglang": sglang.schedule,
    "ranked": ranked.schedule,
    "static": static.schedule,
    "multi_bin": multi_bin.schedule,
}
