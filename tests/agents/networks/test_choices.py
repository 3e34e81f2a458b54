"""The distribution over actions is torch's, number by number and draw by draw."""

import torch
from torch.distributions import Categorical

from servegym.agents.networks.action_network import ILLEGAL_LOGIT
from servegym.agents.networks.choices import Choices


def test_equals_torchs_categorical_to_the_bit() -> None:
    logits = 3 * torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(500), torch.arange(500) % 7] = ILLEGAL_LOGIT
    ours, theirs = Choices(logits), Categorical(logits=logits)
    torch.manual_seed(1)
    drawn = ours.draw()
    torch.manual_seed(1)
    assert torch.equal(drawn, theirs.sample())
    assert torch.equal(ours.log_prob(drawn), theirs.log_prob(drawn))
    assert torch.equal(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.likeliest(), theirs.mode)
    assert (drawn != torch.arange(500) % 7).all()


def test_draws_come_as_often_as_their_probabilities_say() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([0.5, 0.3, 0.2, 0.0])
    drawn = Choices(shares.log().clamp(min=ILLEGAL_LOGIT).expand(100_000, 4)).draw()
    counted = torch.bincount(drawn, minlength=4) / 100_000
    torch.testing.assert_close(counted, shares, atol=0.006, rtol=0.0)  # four standard deviations
    assert counted[3] == 0
