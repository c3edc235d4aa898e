"""What the gates measure on a state: losses and gradients of templates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paft.data.batch import IGNORED, pack_answers, split_into_micro_batches
from paft.data.encode import Encoder
from paft.data.inputs import Inputs
from paft.data.tasks.base import Example
from paft.evaluation.statistics import Array
from paft.jobs.one_run import PreparedRun
from paft.model.base import Model
from paft.packing import to_device
from paft.prompts import PromptTemplate
from paft.training.losses import answer_loss, answer_losses

ROWS = 8  # training rows, for gradients


@dataclass(frozen=True)
class Probe:
    """What is measured at each state of a run: templates and rows."""

    encoder: Encoder
    train: Sequence[PromptTemplate]
    validation: Sequence[PromptTemplate]
    rows: Sequence[Example]  # validation rows, for losses
    trained_rows: Sequence[Example]  # training rows, for gradients
    tokens: int  # of a micro-batch


def losses(model: Model, probe: Probe, templates: Sequence[PromptTemplate], device: torch.device) -> Array:
    """Return the mean loss over answer tokens of each template on each row (P, E), without gradients."""
    pairs = [_pair(probe, template, row) for template in templates for row in probe.rows]
    found = np.empty(len(pairs))
    lengths = [len(context) + len(answer) for context, answer in pairs]
    with torch.no_grad():
        for own in split_into_micro_batches(lengths, probe.tokens):
            batch = to_device(pack_answers([pairs[i] for i in own]), device)
            by_token = answer_losses(model, batch)[batch.targets != IGNORED].cpu()
            parts = by_token.split([len(pairs[i][1]) for i in own])
            found[own] = [float(part.mean()) for part in parts]
    return found.reshape(len(templates), len(probe.rows))


def gradient(model: Model, probe: Probe, template: PromptTemplate, device: torch.device) -> Tensor:
    """Return the gradient of the mean loss of a template on the training rows, all trained weights in one vector (N,), fp32."""
    trained = [p for p in model.parameters() if p.requires_grad]
    pairs = [_pair(probe, template, row) for row in probe.trained_rows]
    lengths, n_targets = [len(context) + len(answer) for context, answer in pairs], sum(len(answer) for _, answer in pairs)
    for parameter in trained:
        parameter.grad = None
    for own in split_into_micro_batches(lengths, probe.tokens):
        batch = to_device(pack_answers([pairs[i] for i in own]), device)
        (answer_loss(model, batch) / n_targets).backward()
    return torch.cat([p.grad.flatten().cpu() for p in trained if p.grad is not None])


def _pair(probe: Probe, template: PromptTemplate, row: Example) -> tuple[list[int], list[int]]:
    encoded = probe.encoder.training(template, row)
    return encoded.context, encoded.continuations[0]


def templates_of(inputs: Inputs, n: int) -> list[PromptTemplate]:
    """Return the training templates that are measured: n at random, always the same, or all."""
    assert inputs.train is not None
    chosen = sorted(np.random.default_rng(0).permutation(len(inputs.train.templates))[:n].tolist())
    return [inputs.train.templates[i] for i in chosen]


def probe_of(run: PreparedRun, n_templates: int) -> Probe:
    """Return what is measured: training templates, some at random where not all; all validation prompts; rows of both."""
    inputs = run.inputs
    return Probe(
        run.encoder,
        templates_of(inputs, n_templates),
        inputs.test.templates,  # with evaluate=false those of validation, as are the rows
        inputs.examples.test,
        inputs.examples.train[:ROWS],
        run.config.trainer.micro_batch_tokens,
    )
