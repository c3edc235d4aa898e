"""All gates on one run of uniform PAFT, which is trained unless it is finished."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import set_peft_model_state_dict

from experiments.gates.persistence import EVERY, FLOOR, Lasting, explained, of_families
from experiments.gates.probe import losses, probe_of, templates_of
from experiments.gates.signal import Signal, signal
from experiments.gates.transfer import Transfer, transfer
from experiments.studies import train
from paft.config.compose import compose_training, from_dict
from paft.config.schema import SamplerConfig
from paft.data.inputs import load_inputs
from paft.evaluation.statistics import Array
from paft.jobs.one_run import prepare
from paft.model.base import Model, add_lora, device_of, load_base
from paft.model.fused import fused_kind
from paft.prompts import PromptTemplate
from paft.reporting.logged import earlier_updates
from paft.reporting.results import Results
from paft.runtime.errors import InputError
from paft.training.checkpoints import states

_KEPT = 10_000  # states: all of them


@dataclass(frozen=True)
class Gates:
    """What the gates show on one run."""

    seed: int
    updates: list[int]  # at which the states were taken that were measured
    by_half: Array  # losses of the training templates on both halves of the rows (S, P, 2)
    templates: Lasting
    wordings: Lasting  # families
    layouts: Lasting
    families: list[float]  # share of the spread that wording and layout explain, at each state
    transfer: dict[int, Transfer]  # update -> the second gate
    signal: Signal

    @property
    def left_to_gain(self) -> Array:
        """Whether the loss at the beginning of each pair of states is above the floor (S - 1,)."""
        above: Array = self.by_half.mean((1, 2))[:-1] > FLOOR
        return above


def measure(overrides: Sequence[str], n_templates: int, n_examples: int) -> tuple[Gates, Results]:
    """Train a run, unless it is finished, and measure the gates on its states; raises InputError if some are gone."""
    config = compose_training([*overrides, "eval_prompts=null", f"eval_examples={n_examples}"])
    if config.evaluate:
        raise InputError(
            "evaluate=true: the gates choose methods, so that they look at validation prompts; leave evaluate=false."
        )
    if config.method.name != "paft" or config.sampler != SamplerConfig() or config.schedule.unit != "update":
        raise InputError(
            "The gates are measured on uniform draws of one template an update; leave method, sampler and schedule.unit out."
        )
    results = train([*overrides, f"trainer.checkpoint_every={EVERY}", f"trainer.checkpoints_kept={_KEPT}"])
    kept = {int(path.stem.removeprefix("update-")): path for path in states(results.folder / "checkpoints")}
    updates = sorted(update for update in kept if update % EVERY == 0)
    if results.training is not None and results.training.updates < 2 * EVERY:
        raise InputError(
            f"{results.folder}: it has fewer than {2 * EVERY} updates; give more rows (train_examples) or epochs (T)."
        )
    if len(updates) < 2 or updates != [*range(EVERY, updates[-1] + 1, EVERY)]:
        raise InputError(
            f"{results.folder}: its states, {EVERY} updates apart, are not all there, so nothing can be measured; delete the "
            "folder and try again."
        )
    device = device_of(config.trainer.accelerator)
    run = prepare(config)
    fused = fused_kind(device, config.trainer.fused)
    model = add_lora(load_base(config.model, device, True, run.encoder.cutoff, fused), config.model, config.seed)
    probe = probe_of(run, n_templates)
    found = list[Array]()
    for update in updates:
        _load(model, kept[update], device)
        found.append(_halves(losses(model, probe, probe.train, device)))
        print(f"seed {config.seed}, update {update}: loss {found[-1].mean():.3f}", flush=True)
        if found[-1].mean() <= FLOOR:
            break
    by_half = np.stack(found)
    second = dict[int, Transfer]()
    above = [i for i in range(len(found)) if found[i].mean() > FLOOR] or [0]
    for i in sorted({above[0], above[len(above) // 2], above[-1]}):
        _load(model, kept[updates[i]], device)
        of_validation = losses(model, probe, probe.validation, device).mean(1)
        second[updates[i]] = transfer(model, probe, by_half[i].mean(1), of_validation, device, config.seed)
        print(f"seed {config.seed}, update {updates[i]}: transfer {second[updates[i]].advantage:+.3f}", flush=True)
    log = [
        (int(metrics["template"]), metrics["loss"]) for _, metrics in earlier_updates(results.folder) if "template" in metrics
    ]
    gates = Gates(
        seed=config.seed,
        updates=updates[: len(found)],
        by_half=by_half,
        **_of_losses(by_half, probe.train),
        transfer=second,
        signal=signal(log, run),
    )
    return gates, results


def kept(report: Path) -> tuple[list[Gates], list[Results], dict[str, Any]]:
    """Return what was measured before, by its results.json: the gates, their runs, and how and where they were measured.

    What the losses say is computed anew. Raises InputError if there is no such file, or if the prompts are others by now.
    """
    path = report / "results.json"
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; leave --kept out, and measure.")
    content = json.loads(path.read_text(encoding="utf-8"))
    found, runs = list[Gates](), [Results.model_validate(run) for run in content.pop("runs")]
    for own, run in zip(content.pop("gates"), runs, strict=True):
        inputs, by_half = load_inputs(from_dict(run.config)), np.array(own["by_half"])
        if inputs.pools["train"].fingerprint != run.fingerprints.pools["train"].fingerprint:
            raise InputError(f"{path}: the training prompts of its runs are others by now; leave --kept out, and measure.")
        gates = Gates(
            seed=own["seed"],
            updates=own["updates"],
            by_half=by_half,
            **_of_losses(by_half, templates_of(inputs, by_half.shape[1])),
            transfer={int(i): Transfer(one["hardest"], np.array(one["at_random"])) for i, one in own["transfer"].items()},
            signal=Signal(own["signal"]["pool"], own["signal"]["fewest"], np.array(own["signal"]["shuffled"])),
        )
        found.append(gates)
    return found, runs, content


def _of_losses(by_half: Array, templates: Sequence[PromptTemplate]) -> dict[str, Any]:
    """Return what the losses of templates say of them and of their families, by the names of Gates."""
    wordings, layouts = ([str(getattr(t, kind)) for t in templates] for kind in ("wording", "layout"))
    return {
        "templates": Lasting.of(by_half),
        "wordings": Lasting.of(of_families(by_half, wordings)),
        "layouts": Lasting.of(of_families(by_half, layouts)),
        "families": [explained(one.mean(1), templates) for one in by_half],
    }


def _load(model: Model, state: Path, device: torch.device) -> None:
    set_peft_model_state_dict(model, torch.load(state, map_location=device, weights_only=True)["state_dict"])


def _halves(by_row: Array) -> Array:
    """Return the mean loss of each template on the even and on the odd rows (P, 2)."""
    return np.stack([by_row[:, half::2].mean(1) for half in (0, 1)], axis=1)
