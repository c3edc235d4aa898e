"""What an update minimises, of the cross-entropies of its answer tokens (conf/loss).

Micro-batches and ranks add up: each function returns sums, of which the module makes the loss of the whole update.
"""

import math

import torch
from torch import Tensor

from paft.data.batch import IGNORED, MicroBatch
from paft.model.attention import packed_logits
from paft.model.base import Model

_MOST = 40.0  # of temperature times loss, where weights add up over micro-batches: exp(40) squared is still a number in fp32


def answer_logits(model: Model, batch: MicroBatch) -> Tensor:
    """Return the logits that predict the targets of a micro-batch, (P, V) fp32.

    The LM head is applied to these positions and to no others.
    """
    return packed_logits(model, batch.packing, batch.positions).float()


def cross_entropies(logits: Tensor, batch: MicroBatch) -> Tensor:
    """Return the cross-entropy of each target of a micro-batch, (P,) fp32, zero where a target is ignored."""
    # Not F.cross_entropy: on a CPU it sums a large vocabulary in fp32 with a bias, and is 2e-5 too low (torch 2.13).
    of_targets = logits.gather(1, batch.targets.clamp(min=0)[:, None]).squeeze(1)
    return (logits.logsumexp(-1) - of_targets).masked_fill(batch.targets == IGNORED, 0)


def answer_losses(model: Model, batch: MicroBatch) -> Tensor:
    """Return the cross-entropy of each target of a micro-batch, (P,) fp32, zero where a target is ignored."""
    return cross_entropies(answer_logits(model, batch), batch)


def answer_loss(model: Model, batch: MicroBatch) -> Tensor:
    """Return the cross-entropy (scalar, fp32) of a micro-batch, summed over its answer tokens."""
    return answer_losses(model, batch).sum()


def disagreement(logits: Tensor, losses: Tensor, batch: MicroBatch, toward_best: bool) -> Tensor:
    """Return by how much the predictions of the same answer token under several templates differ, summed over tokens; scalar.

    Of G templates, the mean of a divergence in nats: KL(best || each), where best is the prediction under the template whose
    own loss of that token is lowest, through which no gradient flows (self-distillation); or KL(each || mean of all), which
    makes it the Jensen-Shannon divergence. Where no answer is known, best is the prediction that is most certain (entropy).

    Args:
        logits: (P, V).
        losses: (P,), their cross-entropies.
        batch: what they are of; it compares answers.
    """
    aligned = batch.aligned
    assert aligned is not None
    there = aligned[:, 0] >= 0
    of_tokens = logits.log_softmax(-1)[aligned.clamp(min=0)]  # (N, G, V)
    if toward_best:
        entropy = -(of_tokens.detach().exp() * of_tokens.detach()).sum(-1)
        known = (batch.targets != IGNORED)[aligned.clamp(min=0)]
        best = torch.where(known, losses.detach()[aligned.clamp(min=0)], entropy).argmin(1)
        target = of_tokens.gather(1, best[:, None, None].expand(-1, 1, of_tokens.shape[-1])).detach()
        divergence = (target.exp() * (target - of_tokens)).sum(-1)
    else:
        mean = of_tokens.logsumexp(1, keepdim=True) - math.log(of_tokens.shape[1])
        divergence = (of_tokens.exp() * (of_tokens - mean)).sum(-1)
    return divergence.mean(1).masked_fill(~there, 0).sum()


def tilted(losses: Tensor, shares: Tensor, temperature: Tensor, paired: bool) -> Tensor:
    """Return the sums of a tilted loss: the weighted losses of the templates, the weights, and their squares; (3,) fp32.

    A template with a higher loss counts more: its weight is exp(temperature * loss), as in the gradient of the soft maximum
    (1/t) log mean exp(t loss) (tilted empirical risk, https://arxiv.org/abs/2007.01162). No gradient flows through the weights.
    Unless paired, temperature * loss counts as at most 40.

    Args:
        losses: (P,), of targets.
        shares: (B, G, P), as in paft.data.batch.MicroBatch.
        temperature: scalar; at zero all templates count alike.
        paired: whether the weights of each block sum to one, because all its templates are here.
    """
    of_templates = (shares * losses).sum(-1)  # not a matrix product, which autocast would compute in bf16
    there, exponents = shares.sum(-1) > 0, temperature * of_templates.detach()
    weights = exponents.masked_fill(~there, -torch.inf).softmax(-1) if paired else exponents.clamp(max=_MOST).exp()
    weights = torch.where(there, weights, 0.0)  # a block without templates has none
    return torch.stack(((weights * of_templates).sum(), weights.sum(), weights.square().sum()))


def effective_templates(sums: Tensor, paired: bool) -> Tensor:
    """Return how many templates of an update count, from a tilted loss's sums: all if they count alike, else fewer."""
    _, weight, squares = sums
    return weight / squares if paired else weight.square() / squares
