"""What every router network promises: legal, finite, indifferent to order, size and padding."""

import numpy as np
import pytest
import torch

from servegym.agents.networks.action_network import ILLEGAL_LOGIT
from servegym.agents.networks.attention import RouterAttention
from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.mlp import RouterMLP
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.router_network import RouterNetwork
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.costmodels.errors import InputError
from servegym.envs.routing.observation import PARTS
from servegym.envs.sim.llm import view

NAMES = ("gnn", "attention", "mlp")
ANY_SIZE = (RouterGNN, RouterAttention)


def tensors(num_observations: int, num_replicas: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    observation = plausible_observation("router", np.random.default_rng(seed), num_observations, num_replicas)
    return tuple(torch.from_numpy(observation[key]) for key in PARTS)


def lively(network: RouterNetwork) -> RouterNetwork:
    """Fresh networks score all replicas almost alike; tests want differences worth comparing."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.3)
            if layer.bias is not None:
                torch.nn.init.normal_(layer.bias, std=0.3)
    return network.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ANY_SIZE)
def test_it_follows_the_order_of_the_replicas(kind: type[RouterNetwork]) -> None:
    network = lively(kind())
    request, replicas, setting = tensors(50, 8)
    order = torch.randperm(8)
    logits, value = network(request, replicas, setting)
    permuted_logits, permuted_value = network(request, replicas[:, order], setting)
    torch.testing.assert_close(permuted_logits, logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(permuted_value, value, rtol=1e-4, atol=1e-4)
    assert logits[logits > ILLEGAL_LOGIT].std() > 0.1


@pytest.mark.parametrize("kind", ANY_SIZE)
@pytest.mark.parametrize("num_replicas", [4, 8, 32])
def test_with_illegal_replicas_appended_it_is_itself(num_replicas: int, kind: type[RouterNetwork]) -> None:
    network = lively(kind())
    request, replicas, setting = tensors(50, num_replicas)
    padding = tensors(50, 5, seed=1)[1]
    padding[..., view.AVAILABLE] = 0
    logits, value = network(request, replicas, setting)
    padded_logits, padded_value = network(request, torch.cat([replicas, padding], dim=1), setting)
    torch.testing.assert_close(padded_logits[:, :num_replicas], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(padded_value, value, rtol=1e-4, atol=1e-4)
    assert (padded_logits[:, num_replicas:] == ILLEGAL_LOGIT).all()


@pytest.mark.parametrize("kind", ANY_SIZE)
def test_it_hears_of_the_other_replicas_and_of_the_request(kind: type[RouterNetwork]) -> None:
    """Each score and the value depend on every legal node of the graph."""
    network = lively(kind())
    request, replicas, setting = tensors(1, 4)
    replicas[..., view.AVAILABLE] = 1
    replicas.requires_grad_()
    request.requires_grad_()
    logits, value = network(request, replicas, setting)
    for output in (logits[0, 0], value[0]):
        to_request, to_replicas = torch.autograd.grad(output, (request, replicas), retain_graph=True)
        assert to_request.abs().sum() > 0
        assert (to_replicas[0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("network", [RouterGNN(), RouterAttention(), RouterMLP(8)], ids=NAMES)
def test_what_an_illegal_replica_holds_changes_nothing(network: RouterNetwork) -> None:
    lively(network)
    request, replicas, setting = tensors(50, 8)
    illegal = replicas[..., view.AVAILABLE] == 0
    assert illegal.any()
    rubbish = replicas.clone()
    rubbish[illegal] = torch.rand(int(illegal.sum()), view.REPLICA_FEATURES) * 1e6
    rubbish[..., view.AVAILABLE] = replicas[..., view.AVAILABLE]
    for before, after in zip(
        network(request, replicas, setting), network(request, rubbish, setting), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.parametrize("network", [RouterGNN(), RouterAttention(), RouterMLP(8)], ids=NAMES)
def test_never_illegal_whether_sampled_or_best(network: RouterNetwork) -> None:
    lively(network)
    request, replicas, setting = tensors(500, 8)
    legal = replicas[..., view.AVAILABLE] == 1
    logits, _ = network(request, replicas, setting)
    assert torch.equal(logits == ILLEGAL_LOGIT, ~legal)
    probabilities = torch.softmax(logits, dim=1)
    assert (probabilities[~legal] == 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(500))
    actions = NetworkPolicy(network).act(
        {"request": request.numpy(), "replicas": replicas.numpy(), "setting": setting.numpy()}
    )
    assert actions.dtype == np.int64
    assert legal[torch.arange(500), torch.from_numpy(actions)].all()


@pytest.mark.parametrize("network", [RouterGNN(), RouterAttention(), RouterMLP(2)], ids=NAMES)
def test_finite_at_the_extremes(network: RouterNetwork) -> None:
    """Nothing anywhere, huge numbers, no blocks, clocks a little below zero, nobody to choose."""
    lively(network)
    request = torch.zeros(4, view.REQUEST_FEATURES)
    replicas = torch.zeros(4, 2, view.REPLICA_FEATURES)
    replicas[:3, :, view.AVAILABLE] = 1
    request[1], replicas[1, :, 1:] = 1e9, 1e9
    setting = torch.zeros(4, view.SETTING_FEATURES)
    setting[1] = 1e9
    request[2, view.GAP_S], replicas[2, :, view.ITERATION_LEFT_S] = -1.0, -1.0
    logits, value = network(request, replicas, setting)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(value).all()


def test_best_replica_by_one_number_stands_at_zero_whatever_the_load() -> None:
    request, replicas, setting = tensors(100, 6)
    _, inputs, _, legal = RouterGNN().normalise(request, replicas, setting)
    relative = inputs[..., inputs.shape[-1] // 2 + view.QUEUED_PREFILL_TOKENS]
    queued = replicas[..., view.QUEUED_PREFILL_TOKENS].masked_fill(~legal, torch.inf)
    gap = queued - queued.amin(dim=1, keepdim=True)
    expected = torch.log1p(gap / 256).masked_fill(~legal, 0)
    torch.testing.assert_close(relative, expected)


def test_mlp_refuses_another_fleet_size() -> None:
    with pytest.raises(InputError, match="the fleet has 4 replicas, the network was built for 8"):
        RouterMLP(8)(*tensors(3, 4))


def test_attention_refuses_a_width_that_its_heads_do_not_share() -> None:
    with pytest.raises(InputError, match="hidden = 30: must be a multiple of 4"):
        RouterAttention(hidden=30)
