"""Two gates before any learnt sampler: do losses of templates persist, and does training on the hardest ones help others?

    python -m experiments.gates [--templates 100 --examples 16] [--report experiments/results/gates] [train.py's settings]

On ordinary runs of uniform PAFT, of which every 25 updates a state is kept, by forward passes and gradients alone:

1. Persistence. The loss of each training template, on the same validation rows, at every state. If the order of the templates
   is another one 25 updates later, whatever a sampler has learnt of them is out of date when it is used. How much of the spread
   over templates their families explain says whether families can stand for templates.
2. Transfer. The gradient on the hardest tenth of the training templates beside that on the worst tenth of the validation
   prompts, whose families training never sees: is their cosine larger than that of as many templates taken at random? If it is
   not, hard mining cannot help prompts of other families.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import set_peft_model_state_dict
from scipy import stats
from torch import Tensor

from experiments.studies import train
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.data.batch import IGNORED, pack_answers, split_into_micro_batches
from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.statistics import Array
from paft.jobs.train import PreparedRun, prepare
from paft.model.attention import packed_logits
from paft.model.base import Model, add_lora, device_of, load_base
from paft.model.fused import fused_kind
from paft.packing import to_device
from paft.prompts import PromptTemplate
from paft.reporting.page import bullets, percent, table, write, write_json
from paft.reporting.provenance import provenance
from paft.reporting.results import Results
from paft.runtime.errors import InputError
from paft.runtime.files import check_place
from paft.runtime.process import keep_freed_memory, quieten
from paft.training.checkpoints import states
from paft.training.losses import answer_loss

EVERY = 25  # updates between two states
_KEPT = 10_000  # states: all of them
PERSISTS = 0.5  # rank correlation below which no learnt sampler can work
BY_FAMILY = 0.3  # share of the spread over templates below which families cannot stand for them
_SHARE = 0.1  # of the templates, the hardest
_DRAWS = 200  # sets of templates at random
_BETTER = 0.9  # of the sets: from here on the hardest templates count as better than those at random
_ROWS = 8  # training rows, for gradients
_DEFAULT = ["scale=cpu", "dataset=story_facts", "prompts=v2", "train_examples=800", "K=1", "evaluate=false", "eval_prompts=4",
            "eval_examples=8", "validation.prompts=4", "validation.examples=24", "score_base=false"]  # fmt: skip


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
            logits = packed_logits(model, batch.packing, batch.positions).float()
            of_targets = logits.gather(1, batch.targets.clamp(min=0)[:, None]).squeeze(1)
            by_token = (logits.logsumexp(-1) - of_targets)[batch.targets != IGNORED].cpu()
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


@dataclass(frozen=True)
class Transfer:
    """The cosine of the gradient on the hardest training templates with that on the worst validation prompts."""

    hardest: float
    at_random: Array  # of as many templates, taken at random (200,)

    @property
    def advantage(self) -> float:
        """By how much the hardest templates are better than those at random."""
        return self.hardest - float(self.at_random.mean())

    @property
    def rank(self) -> float:
        """The share of the random sets that the hardest templates are better than."""
        return float((self.at_random < self.hardest).mean())


def transfer(model: Model, probe: Probe, of_train: Array, of_validation: Array, device: torch.device, seed: int) -> Transfer:
    """Measure the second gate at one state.

    Args:
        of_train: the loss of each training template (P,).
        of_validation: that of each validation prompt.
        seed: of which templates are taken at random.
    """
    rng = np.random.default_rng(seed)
    n = max(1, round(_SHARE * len(of_train)))
    hardest = np.argsort(-of_train)[:n].tolist()
    others = rng.permutation(len(of_train))[: 4 * n].tolist()
    worst = np.argsort(-of_validation)[: max(1, round(_SHARE * len(of_validation)))].tolist()
    by_template = {i: gradient(model, probe, probe.train[i], device) for i in {*hardest, *others}}
    target = torch.stack([gradient(model, probe, probe.validation[i], device) for i in worst]).mean(0)

    def cosine(chosen: Sequence[int]) -> float:
        mean = torch.stack([by_template[i] for i in chosen]).mean(0)
        return float(torch.nn.functional.cosine_similarity(mean, target, dim=0))

    drawn = [cosine(rng.choice(others, size=n, replace=False).tolist()) for _ in range(_DRAWS)]
    return Transfer(cosine(hardest), np.array(drawn))


def persistence(by_state: Array) -> Array:
    """Return the rank correlation of the templates' losses at each state with those at the next (S - 1,).

    Args:
        by_state: (S, P).
    """
    return np.array([float(stats.spearmanr(a, b).statistic) for a, b in itertools.pairwise(by_state)])


def explained(by_template: Array, templates: Sequence[PromptTemplate]) -> float:
    """Return the share of the spread over templates that wording and layout explain, additively, adjusted for their number.

    Not a number where there are hardly more templates than families.

    Args:
        by_template: the loss of each template (P,).
    """
    columns = [np.ones(len(templates))]
    for key in ("wording", "layout"):
        names = [getattr(template, key) for template in templates]
        columns += [np.array([name == other for name in names], dtype=float) for other in sorted(set(names))[1:]]
    design = np.stack(columns, axis=1)
    rank = int(np.linalg.matrix_rank(design))
    left = by_template - design @ np.linalg.lstsq(design, by_template, rcond=None)[0]
    free = len(templates) - rank
    if free < 1:
        return float("nan")
    return float(1 - (left @ left / free) / np.var(by_template, ddof=1))


@dataclass(frozen=True)
class Gates:
    """What both gates show on one run."""

    seed: int
    updates: list[int]  # at which the states were taken
    by_state: Array  # losses of the training templates (S, P)
    persistence: Array  # (S - 1,)
    families: list[float]  # share of the spread that wording and layout explain, at each state
    transfer: dict[int, Transfer]  # update -> the second gate


def measure(overrides: Sequence[str], n_templates: int, n_examples: int) -> tuple[Gates, Results]:
    """Train a run, unless it is finished, and measure both gates on its states; raises InputError if these are gone."""
    config = compose_training([*overrides, "eval_prompts=null", f"eval_examples={n_examples}"])
    if config.evaluate:
        raise InputError(
            "evaluate=true: the gates choose methods, so that they look at validation prompts; leave evaluate=false."
        )
    results = train([*overrides, f"trainer.checkpoint_every={EVERY}", f"trainer.checkpoints_kept={_KEPT}"])
    kept = {int(path.stem.removeprefix("update-")): path for path in states(results.folder / "checkpoints")}
    updates = sorted(update for update in kept if update % EVERY == 0)
    if len(updates) < 2:
        raise InputError(f"{results.folder}: its states are gone, so nothing can be measured; delete the folder and try again.")
    device = device_of(config.trainer.accelerator)
    run = prepare(config)
    fused = fused_kind(device, config.trainer.fused)
    model = add_lora(load_base(config.model, device, True, run.encoder.cutoff, fused), config.model, config.seed)
    probe = _probe(run, n_templates)
    found, families, second = [], list[float](), dict[int, Transfer]()
    thirds = {updates[len(updates) // 3], updates[2 * len(updates) // 3], updates[-1]}
    for update in updates:
        set_peft_model_state_dict(model, torch.load(kept[update], map_location=device, weights_only=True)["state_dict"])
        of_train = losses(model, probe, probe.train, device).mean(1)
        found.append(of_train)
        families.append(explained(of_train, probe.train))
        if update in thirds:
            of_validation = losses(model, probe, probe.validation, device).mean(1)
            second[update] = transfer(model, probe, of_train, of_validation, device, config.seed)
        print(f"seed {config.seed}, update {update}: loss {of_train.mean():.3f}", flush=True)
    by_state = np.stack(found)
    return Gates(config.seed, updates, by_state, persistence(by_state), families, second), results


def _probe(run: PreparedRun, n_templates: int) -> Probe:
    """Return what is measured: some training templates, spread over the pool, all validation prompts, and rows of both."""
    inputs = run.inputs
    assert inputs.train is not None
    step = max(1, len(inputs.train.templates) // n_templates)
    return Probe(
        run.encoder,
        inputs.train.templates[::step][:n_templates],
        inputs.test.templates,  # with evaluate=false those of validation, as are the rows
        inputs.examples.test,
        inputs.examples.train[:_ROWS],
        run.config.trainer.micro_batch_tokens,
    )


def write_page(found: Sequence[Gates], results: Sequence[Results], out: Path, n_rows: int, command: str) -> None:
    """Write README.md and results.json."""
    page = ["# Two gates before any learnt sampler", "", *bullets(says(found)), "## Persistence", ""]
    rows = [
        [str(gates.seed), f"{a} to {b}", f"{correlation:.2f}", percent(share), f"{losses.mean():.3f}", f"{losses.std():.3f}"]
        for gates in found
        for (a, b), correlation, share, losses in zip(
            itertools.pairwise(gates.updates), gates.persistence, gates.families, gates.by_state, strict=False
        )
    ]
    page += table(["seed", "updates", "rank correlation", "by family", "mean loss", "std over templates"], rows)
    page += [
        f"{found[0].by_state.shape[1]} training templates, {n_rows} validation rows, the loss of an answer token. By family: "
        "the share of the spread over templates, in percent, that wording and layout explain (additive, adjusted for how many "
        "there are).",
        "",
        "## Transfer",
        "",
    ]
    rows = [
        [str(gates.seed), str(update), f"{one.hardest:.3f}", f"{one.at_random.mean():.3f}", *_ends(one), percent(one.rank)]
        for gates in found
        for update, one in gates.transfer.items()
    ]
    headings = ["seed", "update", "hardest", "at random", "2.5%", "97.5%", "better than"]
    page += table(headings, rows)
    page += [
        "Cosine with the gradient on the worst tenth of the validation prompts, of the hardest tenth of the training templates "
        f"and of {_DRAWS} sets of as many at random, all on the same {_ROWS} training rows. Better than: percent of the sets.",
        "",
        f"Made by `{command}`. Configs, versions and device: results.json.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write(out, page)
    write_json(out, {"gates": [_plain(gates) for gates in found], "runs": [run.model_dump(mode="json") for run in results],
                     **provenance(device_of(results[0].config["trainer"]["accelerator"]))})  # fmt: skip
    print("\n".join(page))


def says(found: Sequence[Gates]) -> list[str]:
    """Say what the gates decide."""
    later = np.concatenate([gates.persistence[len(gates.persistence) // 3 :] for gates in found])  # after the first third
    by_family = np.concatenate([gates.families[len(gates.families) // 3 :] for gates in found])
    gains = [one.advantage for gates in found for one in gates.transfer.values()]
    ranks = [one.rank for gates in found for one in gates.transfer.values()]
    persists = float(later.mean()) >= PERSISTS
    share = float(np.mean(by_family))
    helps = float(np.mean(ranks)) >= _BETTER
    return [
        f"Losses of templates {'persist' if persists else 'do not persist'} over {EVERY} updates: rank correlation "
        f"{later.mean():.2f} after the first third of training (bound {PERSISTS}). "
        + (
            "A sampler that learns them can work." if persists else "No sampler that learns them can work; only stateless ones."
        ),
        "Whether families can stand for templates is not known: too few templates were measured."
        if np.isnan(share)
        else f"Wording and layout explain {percent(share)} percent of the spread over templates (bound {percent(BY_FAMILY)}): "
        f"families {'can' if share >= BY_FAMILY else 'cannot'} stand for templates.",
        f"The gradient of the hardest training templates is {np.mean(gains):+.3f} nearer, in cosine, to that of the worst "
        f"validation prompts than that of templates at random, and nearer than {percent(float(np.mean(ranks)))} percent of the "
        f"random sets: hard mining {'may' if helps else 'is not shown to'} help prompts of other families.",
        f"Seeds: {', '.join(str(gates.seed) for gates in found)}."
        + ("" if len(found) > 2 else " Fewer than three: exploratory."),
    ]


def _ends(one: Transfer) -> list[str]:
    return [f"{float(np.quantile(one.at_random, share)):.3f}" for share in (0.025, 0.975)]


def _plain(gates: Gates) -> dict[str, Any]:
    second = {
        str(update): {"hardest": one.hardest, "at_random": one.at_random.tolist(), "advantage": one.advantage, "rank": one.rank}
        for update, one in gates.transfer.items()
    }
    return {"seed": gates.seed, "updates": gates.updates, "losses": gates.by_state.tolist(),
            "persistence": gates.persistence.tolist(), "by_family": gates.families, "transfer": second}  # fmt: skip


def main() -> None:
    """Train, measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--templates", type=int, default=100, help="training templates whose losses are measured")
    parser.add_argument("--examples", type=int, default=16, help="validation rows that they are measured on")
    parser.add_argument("--report", type=Path, default=Path("outputs/gates"))
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    arguments = parser.parse_intermixed_args()
    if arguments.templates < 20 or arguments.examples < 1:
        raise InputError(
            "--templates must be at least 20, so that a tenth of them is more than one, and --examples at least 1."
        )
    check_place(f"--report {arguments.report}", arguments.report)
    quieten()
    keep_freed_memory()
    overrides = [*_DEFAULT, *arguments.overrides]
    measured = [measure([*overrides, f"seed={seed}"], arguments.templates, arguments.examples) for seed in arguments.seeds]
    typed = "".join(f" {override}" for override in arguments.overrides)
    command = (f"python -m experiments.gates --seeds {' '.join(map(str, arguments.seeds))} --templates {arguments.templates} "
               f"--examples {arguments.examples}{typed}")  # fmt: skip
    write_page([gates for gates, _ in measured], [run for _, run in measured], arguments.report, arguments.examples, command)


if __name__ == "__main__":
    run_plain(main)
