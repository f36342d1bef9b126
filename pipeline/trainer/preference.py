"""The loss of pairs: how much more likely the model finds what was chosen than what was rejected.

Formulas and names are those of LLaMA-Factory 0.9.5 (train/dpo/trainer.py) and TRL.
"""

import torch
from torch.nn.functional import logsigmoid

from pipeline.trainer.keys.preference import PreferenceKeys

CHOSEN, REJECTED = 0, 1
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
"""As TRL and LLaMA-Factory log them."""


def pair_losses(
    likelihoods: torch.Tensor,
    chosen_means: torch.Tensor,
    references: torch.Tensor,
    keys: PreferenceKeys,
) -> torch.Tensor:
    """(pairs,) the loss of each.

    likelihoods (pairs, 2): log likelihoods of the chosen and the rejected continuation, means over
    their tokens if `keys.averages_tokens`, else sums; chosen_means (pairs,): always means;
    references (pairs, 2): as `likelihoods`, of the reference model; not used without one.
    """
    chosen, rejected = likelihoods.unbind(dim=1)
    losses = _LOSSES[keys.pref_loss](chosen, rejected, references, keys)
    return losses - keys.pref_ftx * chosen_means


def implicit_rewards(
    likelihoods: torch.Tensor, references: torch.Tensor, keys: PreferenceKeys
) -> torch.Tensor:
    """(pairs, 2): what the training implicitly rewards each side with; arguments as above."""
    compared = likelihoods - references if keys.has_reference else likelihoods
    return keys.pref_beta * compared


def reward_sums(rewards: torch.Tensor) -> torch.Tensor:
    """(4,) over the pairs, in the order of `REWARDS`: the rewards (pairs, 2) of each side, in how
    many pairs that of the chosen one is larger, and by how much."""
    chosen, rejected = rewards.unbind(dim=1)
    each = [chosen, rejected, (chosen > rejected).to(chosen.dtype), chosen - rejected]
    return torch.stack(each).sum(dim=1)


def _margin(chosen: torch.Tensor, rejected: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    return (chosen - rejected) - (references[:, CHOSEN] - references[:, REJECTED])


def _sigmoid(
    chosen: torch.Tensor, rejected: torch.Tensor, references: torch.Tensor, keys: PreferenceKeys
) -> torch.Tensor:
    scaled = keys.pref_beta * _margin(chosen, rejected, references)
    wrong = keys.dpo_label_smoothing
    return -(1 - wrong) * logsigmoid(scaled) - wrong * logsigmoid(-scaled)


def _hinge(
    chosen: torch.Tensor, rejected: torch.Tensor, references: torch.Tensor, keys: PreferenceKeys
) -> torch.Tensor:
    return torch.relu(1 - keys.pref_beta * _margin(chosen, rejected, references))


def _ipo(
    chosen: torch.Tensor, rejected: torch.Tensor, references: torch.Tensor, keys: PreferenceKeys
) -> torch.Tensor:
    return (_margin(chosen, rejected, references) - 1 / (2 * keys.pref_beta)) ** 2


def _orpo(
    chosen: torch.Tensor, rejected: torch.Tensor, _references: torch.Tensor, keys: PreferenceKeys
) -> torch.Tensor:
    log_odds = (chosen - rejected) - (_log_of_others(chosen) - _log_of_others(rejected))
    return -chosen - keys.pref_beta * logsigmoid(log_odds)


def _simpo(
    chosen: torch.Tensor, rejected: torch.Tensor, _references: torch.Tensor, keys: PreferenceKeys
) -> torch.Tensor:
    return -logsigmoid(keys.pref_beta * (chosen - rejected) - keys.simpo_gamma)


def _log_of_others(likelihoods: torch.Tensor) -> torch.Tensor:
    """The logarithm of one minus the likelihood."""
    return torch.log1p(-torch.exp(likelihoods))


_LOSSES = {"sigmoid": _sigmoid, "hinge": _hinge, "ipo": _ipo, "orpo": _orpo, "simpo": _simpo}
