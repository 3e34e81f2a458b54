"""Compiles an exported router into a dynamic module of Envoy.

    python -m servegym.agents.serving.plugins.envoy_module.build serving.json FOLDER

writes FOLDER/libservegym.so from the artifact, the setting and the fleet of a serving configuration
(`agents/serving/config.py`). docs/serving/envoy_module.md says how Envoy loads it.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.config import ServingConfig, load_config, refuse_settings
from servegym.agents.serving.networks.c_source import array_text, number_text, router_source
from servegym.agents.serving.networks.compiled import compile_library
from servegym.agents.serving.networks.numpy_networks.router_inputs import Weights
from servegym.agents.serving.routing.learned_router import setting_row
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError

FOLDER = Path(__file__).parent

LIBRARY = "libservegym.so"
"""Envoy looks for `lib` + the name of the module + `.so`."""


def build_envoy_module(config: ServingConfig, out_dir: Path, log_decisions: bool = False) -> Path:
    """Writes LIBRARY to `out_dir`; returns its path.

    log_decisions: for tests: what each decision was made by is appended to the file that the variable
    SERVEGYM_DECISION_LOG names. InputError where the policy is not an artifact whose network can be
    compiled, or the configuration lacks a setting, or has one that the module would not heed.
    """
    if config.policy.artifact is None:
        raise InputError("policy: must have an artifact; a heuristic is not compiled into Envoy")
    refuse_settings(
        config, "the module inside Envoy", "shadow", "share", "needs_reports", "decision_log", "metrics"
    )
    folder, key = policy_folder(config.policy.artifact), config.policy.signature_key()
    policy = load_artifact(folder, backend="numpy", key=key)
    network = policy.description["network"]
    source = module_source(
        network["kind"],
        network["layers"],
        policy.weights,
        config.setting,
        config.fleet.kv_blocks,
        log_decisions,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / LIBRARY
    compile_library(source, path)
    return path


def module_source(
    kind: str,
    layers: int,
    weights: Weights,
    setting: Mapping[str, float],
    kv_blocks: int,
    log_decisions: bool = False,
) -> str:
    """C of the module: the network, what an operator sets once, and the files beside this one."""
    parts = ["#define DECISION_LOG"] if log_decisions else []
    parts += [router_source(kind, layers, weights)]
    parts += [array_text("SETTING", setting_row(setting)), number_text("KV_BLOCKS", kv_blocks)]
    parts += [(FOLDER / name).read_text() for name in ("abi.h", "reckoning.c", "balancer.c")]
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Builds as the command line says; returns the exit status."""
    if len(arguments) != 2:
        print(
            "usage: python -m servegym.agents.serving.plugins.envoy_module.build CONFIG FOLDER",
            file=sys.stderr,
        )
        return 2
    try:
        print(build_envoy_module(load_config(arguments[0]), Path(arguments[1])))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
