"""Decisions of a router in a real serving system, in the layout of `servegym/Routing-v0`."""

from pathlib import Path

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.routing.observation import Observation, empty_observations
from servegym.envs.sim.llm.view import (
    REPLICA_COLUMNS,
    REPLICA_FEATURES,
    REQUEST_COLUMNS,
    REQUEST_FEATURES,
    SETTING_COLUMNS,
    SETTING_FEATURES,
)
from servegym.envs.workloads.decision_log import UNKNOWN_TOKENS, DecisionLogContents

UNKNOWN_ACTION = -1


def logged_observations(log: DecisionLogContents) -> Observation:
    """What the policy saw at each of the N decisions whose rows were logged, as the environment shows it.

    `request` (N, 4), `replicas` (N, slots, 15) for as many slots as the largest fleet had, `setting` (N, 9).
    InputError where the log has no rows, or features of another version.
    """
    for what, logged, columns in (
        ("request_features", log.request_features, REQUEST_COLUMNS),
        ("replica_features", log.replica_features, REPLICA_COLUMNS),
    ):
        known = _names(columns)
        if logged != known:
            raise InputError(f"log: {what} are {', '.join(logged)}; must be {', '.join(known)}")
    told = _names(SETTING_COLUMNS)
    missing = [name for name in told if name not in log.setting]
    if missing:
        raise InputError(
            f"log: its header says no {missing[0]} of the setting; must be of a router that was told "
            "(servegym deploy)"
        )
    setting = np.array([log.setting[name] for name in told], np.float32)
    rows = [(each.request, each.rows) for each in log.decisions if each.rows is not None]
    if not rows:
        raise InputError("log: no decision has its rows; must have been written with them")
    slots = max(len(replicas) for _, replicas in rows)
    observations = empty_observations(len(rows), slots, None, setting)
    for number, (request, replicas) in enumerate(rows):
        observations["request"][number] = request
        observations["replicas"][number, : len(replicas)] = replicas
    return observations


def logged_actions(log: DecisionLogContents) -> dict[str, np.ndarray]:
    """What was done at these decisions, and what came of it.

    `actions` int64 (N,): the replica that was chosen, by its row; `shadow_actions`: what a policy in the
    shadow would have chosen, -1 for none. `fell_back` bool (N,): whether the policy failed to choose. `ok`
    bool (N,): whether the request is known to have been served; `output_tokens` int64, -1 where that is not
    known; `ttft_s`, `latency_s` float64, NaN likewise.
    """
    decisions = [each for each in log.decisions if each.rows is not None]
    ended = [each.ended for each in decisions]
    nan = float("nan")
    return {
        "actions": np.array([each.replicas.index(each.replica) for each in decisions], np.int64),
        "shadow_actions": np.array(
            [
                each.replicas.index(each.shadow) if each.shadow in each.replicas else UNKNOWN_ACTION
                for each in decisions
            ],
            np.int64,
        ),
        "fell_back": np.array([bool(each.fallback) for each in decisions]),
        "ok": np.array([each is not None and each.ok for each in ended]),
        "output_tokens": np.array(
            [UNKNOWN_TOKENS if each is None else each.output_tokens for each in ended], np.int64
        ),
        "ttft_s": np.array([nan if each is None else each.ttft_s for each in ended]),
        "latency_s": np.array([nan if each is None else each.latency_s for each in ended]),
    }


def load_logged(path: Path | str, slots: int) -> tuple[Observation, np.ndarray]:
    """Observations and actions from a file that `servegym decisions` has written, for `slots` replica slots.

    InputError where it is no such file, or the fleets were larger.
    """
    names = ("request", "replicas", "setting", "actions")
    try:
        with np.load(path, allow_pickle=False) as file:
            request, replicas, setting, actions = (file[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: must be arrays that servegym decisions has written ({error})") from error
    count = len(actions)
    held = replicas.shape[1] if replicas.ndim == 3 else 0
    shapes = ((count, REQUEST_FEATURES), (count, held, REPLICA_FEATURES), (count, SETTING_FEATURES))
    if (request.shape, replicas.shape, setting.shape) != shapes or count == 0 or actions.ndim != 1:
        raise InputError(f"{path}: must be observations of Routing-v0, not {replicas.shape} of replicas")
    if not (replicas[np.arange(count), actions.clip(0, held - 1), 0] > 0).all() or actions.min() < 0:
        raise InputError(f"{path}: actions must be replicas that are available")
    if held > slots:
        raise InputError(f"{path}: is of {held} replicas; must be at most {slots}")
    padded = np.zeros((count, slots, REPLICA_FEATURES), np.float32)
    padded[:, :held] = replicas
    return {"request": request, "replicas": padded, "setting": setting}, actions


def _names(columns: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(name for name, _ in columns)
