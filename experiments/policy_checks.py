"""All that can be checked of an exported policy on this machine, one line a check."""

from pathlib import Path

import numpy as np

from servegym.agents.serving.artifact.description import golden_shapes, weight_shapes
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.agents.serving.artifact.load import TOLERANCE, ExportedPolicy, check_golden, load_artifact
from servegym.agents.serving.artifact.schema import SIGNATURE_FILE
from servegym.costmodels.errors import InputError

LARGEST_FLEET, BATCH = 256, 50
"""Of random observations: the largest fleet, and how many are of one."""


def checks(folder: Path, key: bytes | None, backends: list[str], num_observations: int) -> dict[str, str]:
    """What was found, by check. InputError at the first that fails.

    num_observations: random ones, in fleets of 2 to LARGEST_FLEET, on which the other backends agree with the
    first.
    """
    policies = {backend: load_artifact(folder, backend, key) for backend in backends}
    about = policies[backends[0]].description
    found = {"files": f"{len(about['files']) + 1} files of the lengths and digests described"}
    if key is not None:
        found["signature"] = "of this key"
    elif (folder / SIGNATURE_FILE).exists():
        found["signature"] = "there, not checked without key=FILE"
    found["description"] = f"schema version {about['schema_version']}, level {about['level']}, its features"
    found["graph"] = "operators, sizes and inputs that servegym export writes"
    found["arrays"] = f"{len(weight_shapes(about))} of the shapes of its network"
    golden = sum(shape[0] for name, shape in golden_shapes(about).items() if name.startswith("logits_"))
    for backend, policy in policies.items():
        difference = check_golden(policy, folder)
        found[f"golden, {backend}"] = f"{golden} observations, scores differ by {difference:.1e} at most"
    for backend in backends[1:] if num_observations else ():
        found[f"{backends[0]} and {backend}"] = _agreement(
            policies[backends[0]], policies[backend], num_observations
        )
    return found


def _agreement(first: ExportedPolicy, second: ExportedPolicy, num_observations: int) -> str:
    """On random observations, one by one; InputError where they do not agree."""
    rng, level = np.random.default_rng(0), first.description["level"]
    largest, others = 0.0, 0
    for begin in range(0, num_observations, BATCH):
        batch = min(BATCH, num_observations - begin)
        fleet = first.num_replicas or int(rng.integers(2, LARGEST_FLEET + 1))
        observation = plausible_observation(level, rng, batch, fleet)
        due = second.scores(observation)
        legal = due > -1e8
        scale = max(1.0, float(np.abs(due[legal]).max()))
        for k in range(batch):
            scores = first.score_one({name: array[k] for name, array in observation.items()})
            difference = float(np.abs(scores - due[k])[legal[k]].max()) / scale
            given_up = float(due[k].max() - due[k][scores.argmax()]) / scale
            if not (difference <= TOLERANCE and given_up <= TOLERANCE):
                raise InputError(
                    f"two backends differ by {max(difference, given_up):g} of the largest score "
                    f"in a fleet of {fleet}; allowed is {TOLERANCE:g}"
                )
            largest = max(largest, difference)
            others += int(scores.argmax() != due[k].argmax())
    return (
        f"{num_observations} random observations, scores differ by {largest:.1e} of the largest at most; "
        f"another action of equal score in {others}"
    )
