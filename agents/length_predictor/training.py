"""Trains a length predictor with torch on the requests of one workload."""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from servegym.agents.length_predictor.calibration import calibrate
from servegym.agents.length_predictor.losses import LOSSES
from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.workloads.learned_predictor import FeatureScale, LearnedPredictor
from servegym.envs.workloads.length_features import GROUPS, length_features
from servegym.envs.workloads.workload import Workload

HIDDEN = 64
LIST_REQUESTS = 32
LISTS_PER_STEP = 8
MOST_LISTS = 512
VALIDATION_SHARE = 0.2
PATIENCE = 15
DROPPED = 0.1
FEWEST_REQUESTS = 10 * LIST_REQUESTS


def train_predictor(
    workload: Workload,
    loss: str,
    seed: int,
    epochs: int = 100,
    groups: Collection[str] = tuple(GROUPS),
    trained_on: dict[str, Any] | None = None,
) -> LearnedPredictor:
    """A predictor of `workload`'s output lengths from these groups of features; equal seeds, equal weights.

    The last fifth of the requests (by arrival) are left out of the gradient: the weights are those of the
    epoch with the least loss on them, training ends when 15 epochs bring none, and scores are mapped to
    lengths on them (`calibrate`). A step takes 8 lists of 32 requests (the batches of 32 of arXiv
    2408.15792), an epoch at most 512 lists. In every step each group but the prompt is hidden from a tenth
    of the requests, so that a workload that lacks it can be predicted. Network and schedule are ours.
    InputError for unknown names and for fewer than 320 requests.
    """
    if loss not in LOSSES:
        raise InputError(f"loss = {loss}: must be one of {', '.join(LOSSES)}")
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown or not groups:
        raise InputError(f"features = {', '.join(unknown)}: must be some of {', '.join(GROUPS)}")
    if workload.num_requests < FEWEST_REQUESTS:
        raise InputError(
            f"training part of {workload.num_requests} requests: must be at least {FEWEST_REQUESTS}"
        )
    features = length_features(workload)
    for group, columns in _columns_of_groups().items():
        if group not in groups:
            features[:, columns] = np.nan
    log_lengths = np.log(workload.output_tokens.astype(np.float64))
    scale = FeatureScale.fit(features)
    inputs = scale.inputs(features)
    cut = round(workload.num_requests * (1 - VALIDATION_SHARE))
    layers = _layers_of(_fit(inputs, log_lengths, cut, loss, seed, epochs))
    uncalibrated = LearnedPredictor(scale, layers, np.zeros(1), np.zeros(1), loss, trained_on)
    knots, lengths = calibrate(uncalibrated.scores(features[cut:]), log_lengths[cut:])
    return LearnedPredictor(scale, layers, knots, lengths, loss, trained_on)


def build_network(num_inputs: int) -> nn.Sequential:
    """Inputs (N, num_inputs) to scores (N, 1), float32."""
    return nn.Sequential(
        nn.Linear(num_inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
    )


def _fit(
    inputs: npt.NDArray[np.float64],
    log_lengths: npt.NDArray[np.float64],
    cut: int,
    loss: str,
    seed: int,
    epochs: int,
) -> nn.Sequential:
    """The network of the best epoch; requests from `cut` on decide which that is."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        network = build_network(inputs.shape[1])
    loss_of = LOSSES[loss]
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(log_lengths, dtype=torch.float32)
    centre = y[:cut].median()  # the network starts around it
    last = network[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.fill_(float(centre))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    validation = cut + _lists(len(y) - cut, rng)
    best_loss, best_epoch = np.inf, 0
    best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for epoch in tracked(range(epochs), "Learning lengths", "epochs"):
        lists = _lists(cut, rng)
        for start in range(0, len(lists), LISTS_PER_STEP):
            rows = lists[start : start + LISTS_PER_STEP]
            scores = network(_with_groups_hidden(x[rows], rng))[..., 0]
            step_loss = loss_of(scores, y[rows])
            optimizer.zero_grad()
            step_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            held_loss = float(loss_of(network(x[validation])[..., 0], y[validation]))
        if held_loss < best_loss:
            best_loss, best_epoch = held_loss, epoch
            best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        elif epoch - best_epoch >= PATIENCE:
            break
    network.load_state_dict(best)
    return network


def _lists(num_requests: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(L, 32) indices of requests in shuffled lists, 512 at most; who is in no list is left out this time."""
    num_lists = min(num_requests // LIST_REQUESTS, MOST_LISTS)
    return rng.permutation(num_requests)[: num_lists * LIST_REQUESTS].reshape(-1, LIST_REQUESTS)


def _with_groups_hidden(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Inputs (..., 2 F), where each group but the prompt is unknown for a tenth of the requests."""
    num_features = x.shape[-1] // 2
    hidden = np.zeros((*x.shape[:-1], num_features), dtype=bool)
    for group, columns in _columns_of_groups().items():
        if group != "prompt":
            hidden[..., columns] = rng.random((*x.shape[:-1], 1)) < DROPPED
    mask = torch.from_numpy(~hidden)
    return x * torch.cat([mask, mask], dim=-1)


def _columns_of_groups() -> dict[str, slice]:
    """Where the features of each group stand."""
    columns, start = {}, 0
    for group, names in GROUPS.items():
        columns[group] = slice(start, start + len(names))
        start += len(names)
    return columns


def _layers_of(
    network: nn.Sequential,
) -> tuple[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], ...]:
    """Weights and biases of its linear layers."""
    return tuple(
        (layer.weight.detach().numpy().astype(np.float64), layer.bias.detach().numpy().astype(np.float64))
        for layer in network
        if isinstance(layer, nn.Linear)
    )
