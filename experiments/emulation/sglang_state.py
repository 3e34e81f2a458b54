"""What routers of SGLang's family ask a worker, under SGLang's names (docs.sglang.ai, "Native APIs")."""

import time
from typing import Any

from servegym.envs.sim.llm.engine import Engine


def model_info(model: str) -> dict[str, Any]:
    """Of `GET /model_info`."""
    return {"model_path": model, "tokenizer_path": model, "is_generation": True}


def server_info(model: str, version: str, engine: Engine) -> dict[str, Any]:
    """Of `GET /server_info`."""
    return {
        **model_info(model),
        "served_model_name": model,
        "version": version,
        "dp_size": 1,
        "tp_size": 1,
        "max_running_requests": engine.max_num_seqs,
        "max_total_num_tokens": engine.num_kv_blocks * engine.block_size,
    }


def load(report: dict[str, float]) -> list[dict[str, Any]]:
    """Of `GET /get_load`; report: what a worker's `GET /load` says."""
    return [
        {
            "rid": None,
            "dp_rank": 0,
            "num_reqs": int(report["running"] + report["waiting"]),
            "num_waiting_reqs": int(report["waiting"]),
            "num_tokens": int(report["outstanding_tokens"]),
        }
    ]


def loads(report: dict[str, float], engine: Engine) -> dict[str, Any]:
    """Of `GET /v1/loads`; what is not measured is 0."""
    running, waiting = int(report["running"]), int(report["waiting"])
    usage, utilization = report["kv_used_blocks"] / report["kv_total_blocks"], running / engine.max_num_seqs
    of_rank = {
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_total_reqs": running + waiting,
        "num_used_tokens": int(report["kv_used_blocks"]) * engine.block_size,
        "max_total_num_tokens": engine.num_kv_blocks * engine.block_size,
        "token_usage": usage,
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": utilization,
        "max_running_requests": engine.max_num_seqs,
    }
    aggregate = {
        "total_running_reqs": running,
        "total_waiting_reqs": waiting,
        "total_reqs": running + waiting,
        "avg_token_usage": usage,
        "avg_throughput": 0.0,
        "avg_utilization": utilization,
    }
    return {"timestamp": time.time(), "dp_rank_count": 1, "loads": [of_rank], "aggregate": aggregate}
