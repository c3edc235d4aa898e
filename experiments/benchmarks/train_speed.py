"""Training speed: our update beside TRL's SFTTrainer, in turn on this machine.

    python -m experiments.benchmarks.train_speed --data DIR [--report experiments/results/train_speed]
    python -m experiments.benchmarks.train_speed --data DIR --accelerator cuda --model 0.5b --examples-per-update 8 64

The same model, LoRA adapter, PIQA examples in the same order, update size and precision; completion-only loss, right answer and
end-of-text. Ours are trained as `paft train` trains them; TRL at the fastest of its settings that a probe finds (micro-batch,
attention, padding-free rows), and with Liger's kernels where they run. Every run is a process of its own, and the sides take
turns, round by round; a ratio is the median over rounds. A run makes the same updates twice: what the first time takes longer
is the cost of first use, the second time is measured, between two synchronisations. Neither side saves checkpoints meanwhile.
Non-padding tokens are counted. On a CPU, TRL also runs with our malloc setting. Losses of the first updates are compared in
fp32 through sdpa, and in the precision that is timed. Needs `pip install "trl>=1.16"`.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmarks.measuring import multiply_rate
from experiments.benchmarks.models import add_model_arguments, command_of, label_of, linear_layers, overrides_of, weights_of
from experiments.benchmarks.trl_updates import Probe, Settings, in_words, liger_installed, run_trl
from experiments.benchmarks.updates import Workload, in_fresh_process, measured, run_ours
from paft.cli.hydra_app import run_plain
from paft.data.datamodule import PaftDataModule
from paft.model.base import device_of, dtype_of
from paft.prompts import PromptPool, PromptTemplate
from paft.reporting.page import Entry, bullets, number, table, write, write_json
from paft.reporting.provenance import provenance
from paft.runtime.process import keep_freed_memory, quieten

MODULE = "experiments.benchmarks.train_speed"
PROBE_UPDATES, TRACED_UPDATES = 4, 4
# Losses may differ by so much (of the loss, in bf16): sums in another order, and in bf16 one rounding of a value of its size.
BOUNDS = {("fp32", "cpu"): 1e-5, ("fp32", "cuda"): 1e-3, ("bf16", "cpu"): 2**-7, ("bf16", "cuda"): 2**-7}


class Comparison:
    """Both sides on updates of one size; all that uses the device runs in processes of its own."""

    def __init__(self, arguments: argparse.Namespace, overrides: list[str], examples: int) -> None:
        self.arguments, self.examples = arguments, examples
        self.overrides = [*overrides, f"data_root={arguments.data}", f"examples_per_update={examples}"]
        if arguments.micro_batch_tokens is not None:
            self.overrides.append(f"trainer.micro_batch_tokens={arguments.micro_batch_tokens}")
        self.work = Workload(arguments.updates, [*self.overrides, f"model.dtype={arguments.dtype}"])

    def run(self, what: str, updates: int, dtype: str, settings: Settings | None = None, *options: str) -> Any:
        """Return what a fresh process found.

        Args:
            what: a side, `probe` or `rate`.
            settings: TRL's.
            options: of the process: --traced, --each-loss, --sdpa.
        """
        command = ["--only", what, "--updates", str(updates), "--settings", json.dumps(settings)]
        overrides = json.dumps([*self.overrides, f"model.dtype={dtype}"])
        return in_fresh_process(MODULE, *command, "--overrides", overrides, *options)

    def losses(self) -> dict[str, dict[str, float]]:
        """Return how far the losses of the first updates are apart, by precision, and how far TRL's are from its own."""
        updates, found = self.arguments.losses, {}
        for dtype in dict.fromkeys(("fp32", self.arguments.dtype)) if updates else ():
            usual: Settings = {"micro_batch": self.examples, "attention": "sdpa", "padding_free": False, "liger": False}
            ours = self.run("ours", updates, dtype, None, *(["--sdpa"] if dtype == "fp32" else []))
            theirs = self.run("trl", updates, dtype, usual, "--each-loss")
            found[dtype] = _apart(ours, theirs, updates)
            if self.examples % 2 == 0:
                again = self.run("trl", updates, dtype, {**usual, "micro_batch": self.examples // 2}, "--each-loss")
                found[dtype]["trl from itself"] = _apart(again, theirs, updates)["largest"]
            print(f"Losses of the first {updates} updates in {dtype}: {found[dtype]}", flush=True)
        return found

    def measure(self) -> dict[str, Any]:
        """Return all figures."""
        found = {"examples_per_update": self.examples, "loss_differences": self.losses()}
        return found | (self.timed() if self.arguments.rounds else {})

    def timed(self) -> dict[str, Any]:
        """Return the figures of the rounds."""
        arguments, updates, dtype = self.arguments, self.arguments.updates, self.arguments.dtype
        probed = self.run("probe", PROBE_UPDATES, dtype)
        print(*(f"  probe {line}" for line in probed["said"]), sep="\n", flush=True)
        settings = _settings_of_sides(arguments.accelerator, probed["settings"])
        rounds = []
        for nth in range(1, arguments.rounds + 1):
            rounds.append({side: self.run(side, updates, dtype, of_side) for side, of_side in settings.items()})
            speeds = ", ".join(f"{side} {figures['tokens_per_s']:.0f}" for side, figures in rounds[-1].items())
            print(f"Round {nth}: {speeds} non-padding tokens/s", flush=True)
        traced = {side: self.run(side, TRACED_UPDATES, dtype, settings[side], "--traced") for side in ("ours", "trl")}
        sides = {side: _medians([each[side] for each in rounds]) for side in settings}
        rate = self.run("rate", updates, dtype)["flops"]
        # Forward pass and input gradients of every linear layer; the frozen weights need no gradients of their own.
        flops = 4 * weights_of(linear_layers(self.work.config.model)) * self.work.tokens / updates
        for side, figures in sides.items():
            figures["share_of_multiply_rate"] = flops / rate / (figures["ms_per_update"] / 1000)
            if side in traced:
                figures["launches_per_update"], figures["busy"] = (traced[side][k] for k in ("launches_per_update", "busy"))
        return {
            "tokens_per_update": self.work.tokens / updates,
            "micro_batch_tokens": self.work.config.trainer.micro_batch_tokens,
            "ratios": {
                side: median(r["ours"]["tokens_per_s"] / r[side]["tokens_per_s"] for r in rounds)
                for side in settings if side != "ours"
            },
            "sides": sides,
            "rounds": [{side: {k: v for k, v in f.items() if k != "losses"} for side, f in r.items()} for r in rounds],
            "trl_probe": probed["said"],
            "trl_settings": settings,
            "multiply_rate_flops": rate,
            "share_of_time": {side: figures["shares"] for side, figures in traced.items()},
            "rendering_share": rendering_cost(self.work, sides["ours"]["ms_per_update"] / 1000),
        }  # fmt: skip


def _settings_of_sides(accelerator: str, best: Settings) -> dict[str, Settings | None]:
    """Return the sides that take turns, with TRL's settings."""
    sides: dict[str, Settings | None] = {"ours": None, "trl": best}
    if accelerator == "cpu":
        sides["trl_with_our_malloc"] = best
    elif liger_installed():
        sides["trl_liger"] = {**best, "liger": True}
    return sides


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    figures = {name: median(run[name] for run in runs) for name in ("tokens_per_s", "ms_per_update", "first_use_s")}
    return figures | {name: median(run["memory"][name] for run in runs) for name in runs[0]["memory"]}


def _apart(ours: dict[str, Any], theirs: dict[str, Any], updates: int) -> dict[str, float]:
    pairs = list(zip(ours["losses"][:updates], theirs["losses"][:updates], strict=True))
    return {"largest": max(abs(a - b) for a, b in pairs), "of the loss": max(abs(a - b) / abs(b) for a, b in pairs)}


def measure_here(arguments: argparse.Namespace) -> Any:
    """Be one of the fresh processes; return what it found."""
    settings: Settings | None = json.loads(arguments.settings)
    more = ["model.attention=sdpa"] if arguments.sdpa else []
    work = Workload(arguments.updates, [*json.loads(arguments.overrides), *more])
    if arguments.only == "probe":
        probe = Probe(work)
        return {"settings": probe.fastest(), "said": probe.said}
    if arguments.only == "rate":
        layers, tokens = linear_layers(work.config.model), round(work.tokens / work.updates)
        return {"flops": multiply_rate(layers, tokens, work.device, dtype_of(work.config.model, work.device))}
    if settings is None:
        return asdict(measured(work, run_ours(work, arguments.traced)[0]))
    if arguments.only == "trl_with_our_malloc":
        keep_freed_memory()  # as a run of ours does
    return asdict(measured(work, run_trl(work, settings, arguments.traced, arguments.each_loss)))


def rendering_cost(work: Workload, seconds_per_update: float) -> dict[str, float]:
    """Return the share of an update that drawing, rendering and tokenising take, with pools of 10 and of 10,000."""
    shares = {}
    for size in (10, 10_000):
        text = work.pool.templates[0].text
        pool = PromptPool("many", tuple(PromptTemplate(f"Prompt {i}. {text}", f"p{i}") for i in range(size)), "letter", "shown")
        data = PaftDataModule(work.examples, pool, work.encoder, work.config.model_copy(update={"K": 1}), work.task)
        times = []
        updates = data.updates.of_epoch(0)
        next(updates)
        for _ in range(min(40, work.updates - 1)):
            started = time.perf_counter()
            data.renderings[next(updates)]
            times.append(time.perf_counter() - started)
        shares[f"pool of {size:,}"] = median(times) / seconds_per_update
    return shares


_SIDES = {
    "ours": "ours",
    "trl": "TRL",
    "trl_with_our_malloc": "TRL with our malloc setting",
    "trl_liger": "TRL with Liger's kernels",
}


def page(found: dict[str, Any], command: str) -> list[str]:
    """Return the comparison as a page."""
    device, updates = found["device"], found["losses_compared"]
    where = device.name if device.type == "cuda" else f"{device.threads} CPU threads"
    lines = [f"# Training speed on PIQA, {found['model']}, {found['dtype']}, {where}", ""]
    for size in found["sizes"]:
        if len(found["sizes"]) > 1:
            lines += [f"## {size['examples_per_update']} examples an update", ""]
        lines += _table(size, found["trl"], device.type) if "sides" in size else []
        losses = [_loss_note(dtype, device.type, apart, updates) for dtype, apart in size["loss_differences"].items()]
        lines += bullets([*losses, *(_notes(size, device.type) if "sides" in size else [])])
    return [*lines, f"Made by `{command}`. Versions, device, rounds: results.json."]


def _table(size: dict[str, Any], trl: str, device: str) -> list[str]:
    memory = "peak memory, GiB" if device == "cpu" else "peak GPU memory reserved, GiB"
    headings = ["", "non-padding tokens/s", "ms an update", "of the multiply rate", "kernel launches an update", memory]
    headings += ["of it allocated, GiB", "first use, s"]
    rows: list[list[Entry | str]] = []
    for side, figures in size["sides"].items():
        label = _SIDES[side].replace("TRL", f"TRL {trl}")
        rows.append(
            [
                f"{label} ({in_words(size['trl_settings'][side])})" if side == "trl" else label,
                f"{figures['tokens_per_s']:,.0f}",
                f"{figures['ms_per_update']:.1f}",
                f"{100 * figures['share_of_multiply_rate']:.1f}%",
                number(figures.get("launches_per_update"), ",.0f"),
                f"{figures['peak_memory_gib']:.1f}",
                number(figures.get("peak_allocated_gib"), ".1f"),
                f"{figures['first_use_s']:.1f}",
            ]
        )
    return table(headings, rows)


def _notes(size: dict[str, Any], device: str) -> list[str]:
    ratios = ", ".join(f"{ratio:.2f} times {_SIDES[side]}" for side, ratio in size["ratios"].items())
    notes = [
        f"Median of paired rounds: {ratios}. An update: {size['examples_per_update']} examples, "
        f"{size['tokens_per_update']:.0f} tokens; ours in micro-batches of at most {size['micro_batch_tokens']:,}."
    ]
    shares = ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in size["share_of_time"]["ours"].items())
    busy = "" if device == "cpu" else f"Kernels run for {100 * size['sides']['ours']['busy']:.0f}% of our profiled time. "
    rendering = ", ".join(f"{100 * share:.1f}% of an update with a {pool}" for pool, share in size["rendering_share"].items())
    return [
        *notes,
        f"The multiply rate, measured on the model's own linear layers: {size['multiply_rate_flops'] / 1e12:,.2f} TFLOP/s. "
        f"{busy}Our time goes to {shares}.",
        f"Drawing, rendering and tokenising take {rendering}.",
    ]


def _loss_note(dtype: str, device: str, apart: dict[str, float], updates: int) -> str:
    bound = BOUNDS[dtype, device]
    figure = apart["largest" if dtype == "fp32" else "of the loss"]
    shown, limit = (
        (f"{figure:.1e}", f"{bound:.0e}") if dtype == "fp32" else (f"{100 * figure:.2f}% of the loss", f"{100 * bound:.2f}%")
    )
    itself = apart.get("trl from itself")
    floor = "" if itself is None else f"; TRL differs from itself, with half the micro-batch, by {itself:.1e}"
    absolute = "" if dtype == "fp32" else f" ({apart['largest']:.1e})"
    return (
        f"Losses of the first {updates} updates in {dtype} differ by at most {shown}{absolute}, "
        f"{'within' if figure <= bound else 'BEYOND'} the bound of {limit}{floor}."
    )


def main() -> None:
    """Run the comparison, print it and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with piqa/train.jsonl")
    add_model_arguments(parser)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--examples-per-update", type=int, nargs="+", default=[8], metavar="N")
    parser.add_argument("--micro-batch-tokens", type=int, help="of ours; default: as conf/trainer has it")
    parser.add_argument("--updates", type=int, default=20, help="per round and side; each is made twice, and timed once")
    parser.add_argument("--losses", type=int, default=20, help="updates whose losses are compared; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="0: no timing, only whether losses are the same")
    parser.add_argument("--report", type=Path, default=Path("outputs/train_speed"))
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the fresh processes
    parser.add_argument("--settings", default="null", help=argparse.SUPPRESS)
    parser.add_argument("--overrides", default="[]", help=argparse.SUPPRESS)
    for option in ("--traced", "--each-loss", "--sdpa"):
        parser.add_argument(option, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quieten()
    if arguments.only:
        print(json.dumps(measure_here(arguments)))
        return
    if arguments.data is None:
        parser.error("--data is required: the folder with piqa/train.jsonl")
    device = device_of(arguments.accelerator)
    overrides = overrides_of(arguments)
    comparisons = [Comparison(arguments, overrides, examples) for examples in arguments.examples_per_update]
    found = {
        "model": label_of(arguments.model, comparisons[0].work.config.model),
        "dtype": arguments.dtype,
        "trl": version("trl"),
        "liger": version("liger-kernel") if liger_installed() else None,
        "losses_compared": arguments.losses,
        "processor": platform.processor(),
        "sizes": [comparison.measure() for comparison in comparisons],
        **provenance(device),
    }
    lines = page(found, command_of(MODULE))
    write(arguments.report, lines)
    write_json(arguments.report, found)
    print("\n".join(lines))


if __name__ == "__main__":
    run_plain(main)
