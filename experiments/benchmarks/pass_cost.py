"""What a forward pass costs beside a training update: how methods that look before they train are charged.

    python -m experiments.benchmarks.pass_cost [--accelerator cuda] [--model 0.5b] [--report experiments/results/pass_cost]

The micro-batches of the built-in task's updates, as training packs them. In turn, round by round: the loss without gradients
(a probe), and the loss with the gradients of the adapter (a training pass). Given is the median over rounds. A budget is then
counted in token-equivalents: a probed token costs 1, a trained one the ratio. Counted in multiplications it is 2.03 for a
frozen base model, 3 with activation checkpointing.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from experiments.benchmarks.measuring import synchronise
from experiments.benchmarks.models import add_model_arguments, command_of, label_of, overrides_of
from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.data.datamodule import PaftDataModule
from paft.jobs.one_run import prepare
from paft.model.base import add_lora, device_of, load_base
from paft.model.fused import fused_kind
from paft.packing import to_device
from paft.reporting.page import table, write, write_json
from paft.reporting.provenance import provenance
from paft.runtime.process import keep_freed_memory, quieten
from paft.training.losses import answer_loss


def seconds(overrides: list[str], updates: int, rounds: int) -> tuple[list[float], list[float], int]:
    """Return the seconds of each round's probes and of its training passes, and the tokens of a round."""
    run = prepare(compose_training(overrides))
    config, inputs = run.config, run.inputs
    device = device_of(config.trainer.accelerator)
    fused = fused_kind(device, config.trainer.fused)
    model = add_lora(load_base(config.model, device, True, run.encoder.cutoff, fused, False), config.model, config.seed)
    assert inputs.train is not None
    data = PaftDataModule(inputs.examples.train, inputs.train, run.encoder, config, inputs.examples.task)
    drawn = [data.renderings[tagged] for tagged, _ in zip(data.updates.of_epoch(0), range(updates), strict=False)]
    batches = [to_device(batch, device) for update in drawn for batch in update.micro_batches]

    def probe() -> None:
        with torch.no_grad():
            for batch in batches:
                answer_loss(model, batch)

    def train() -> None:
        for batch in batches:
            answer_loss(model, batch).backward()

    found: dict[str, list[float]] = {"probe": [], "train": []}
    for nth in range(rounds + 1):  # the first warms up
        for name, work in (("probe", probe), ("train", train)):
            synchronise(device)
            started = time.perf_counter()
            work()
            synchronise(device)
            if nth:
                found[name].append(time.perf_counter() - started)
    tokens = sum(int(batch.packing.input_ids.numel()) for batch in batches)
    return found["probe"], found["train"], tokens


def main() -> None:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--updates", type=int, default=8, help="whose micro-batches a round passes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--report", type=Path, default=Path("outputs/pass_cost"))
    arguments = parser.parse_args()
    quieten()
    keep_freed_memory()
    overrides = ["dataset=story_facts", "prompts=v2", "model.lora.dropout=0.0", *overrides_of(arguments)]
    probes, trains, tokens = seconds(overrides, arguments.updates, arguments.rounds)
    ratios = [train / probe for probe, train in zip(probes, trains, strict=True)]
    ratio = median(ratios)
    device = device_of(arguments.accelerator)
    name = label_of(arguments.model, compose_training(overrides).model)
    lines = [f"# What a forward pass costs: {name}, {'GPU' if device.type == 'cuda' else 'CPU'}", ""]
    rows = [
        ["probe: forward without gradients", f"{1000 * median(probes) / arguments.updates:.1f}", "1"],
        ["training pass: forward and backward", f"{1000 * median(trains) / arguments.updates:.1f}", f"{ratio:.2f}"],
    ]
    lines += table(["", "ms for the rows of an update", "token-equivalents"], rows)
    lines += [
        f"A training token costs {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) forward tokens; median of {len(ratios)} "
        f"paired rounds over {tokens:,} tokens. Probing k templates on all rows of each update therefore makes training "
        f"1 + k/{ratio:.2f} times as dear.",
        "",
        f"Made by `{command_of('experiments.benchmarks.pass_cost')}`. Versions and device: results.json.",
    ]
    write(arguments.report, lines)
    figures = {"model": name, "probe_s": probes, "train_s": trains, "tokens": tokens, "ratio": ratio}
    write_json(arguments.report, figures | provenance(device))
    print("\n".join(lines))


if __name__ == "__main__":
    run_plain(main)
