"""Training speed: our update against TRL's SFTTrainer, side by side in one run on this machine.

    python -m experiments.benchmarks.train_speed --data DIR [--report experiments/results/train_speed]

The same model, LoRA adapter, PIQA examples in the same order, update size and precision; completion-only
loss, right answer and end-of-text. TRL runs at the fastest of its settings that a probe finds (micro-batch,
loss, attention). Both take turns, round by round, each in a process of its own; the ratio is the median over
rounds. TRL also runs with our malloc setting, which TRL does not make by itself. Non-padding tokens are
counted. Losses of the first 20 updates are compared in fp32. Needs `pip install trl`.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from datasets import Dataset
from peft import PeftModel
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, TrainerCallback

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.config.schema import LoraConfig, ModelConfig, OptimConfig
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.rows import load_examples
from paft.model.base import add_lora, device_of, load_base, load_tokenizer
from paft.model.converted import smollm2_folder
from paft.prompts import PromptPool, PromptTemplate, load_pool, shipped_pool_path
from paft.reporting.page import bullets, table, write, write_json
from paft.reporting.provenance import peak_memory_bytes, provenance
from paft.runtime.process import keep_freed_memory, quieten
from paft.training.fit import precision_of
from paft.training.module import PaftModule

EXAMPLES_PER_UPDATE = 8
MICRO_BATCH_TOKENS = 2048
WARM_UP = 2  # updates of a round that are not counted


class Workload:
    """The PIQA renderings that both sides train on."""

    def __init__(self, data: str, updates: int) -> None:
        sizes = [f"examples_per_update={EXAMPLES_PER_UPDATE}", f"trainer.micro_batch_tokens={MICRO_BATCH_TOKENS}"]
        self.config = compose_training(["dataset=piqa", "K=4", "T=1", "seed=0", *sizes])
        examples = load_examples(self.config.dataset, data, updates * EXAMPLES_PER_UPDATE, 1)
        task = examples.task
        path = shipped_pool_path("piqa", "letter", "shown", "user")
        self.pool = load_pool(path, task.form("letter", "shown"))
        self.examples = examples.train
        self.encoder = Encoder(load_tokenizer(model_config("fp32")), "letter", 1024)
        self.updates = updates

    def data_module(self) -> PaftDataModule:
        """Return our data module."""
        return PaftDataModule(self.examples, self.pool, self.encoder, self.config)

    def trl_dataset(self) -> Dataset:
        """Return the same token ids, in the same order, in TRL's prepared form."""
        rows = []
        for update in self.data_module().updates.of_epoch(0):
            for tag in update:
                encoded = self.encoder.training(self.pool.templates[0], self.examples[tag.row])
                answer = encoded.continuations[0]
                rows.append({"input_ids": encoded.context + answer, "labels": [-100] * len(encoded.context) + answer})
        return Dataset.from_list(rows)

    def tokens(self) -> list[int]:
        """Return the real tokens of each update."""
        lengths = [len(row["input_ids"]) for row in self.trl_dataset()]
        return [sum(lengths[i : i + EXAMPLES_PER_UPDATE]) for i in range(0, len(lengths), EXAMPLES_PER_UPDATE)]


def model_config(dtype: Any) -> ModelConfig:
    """Return the benchmark's model: the paper's adapter on the embedded model."""
    return ModelConfig(path=None, dtype=dtype, lora=LoraConfig(r=8, alpha=16, dropout=0.0, target_modules=["q_proj", "v_proj"]))


OPTIM = OptimConfig(lr=1e-4, weight_decay=0.0, warmup=0.1, max_grad_norm=1.0)


class Clock(pl.Callback):
    """Notes when each of our updates ended, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *args: Any) -> None:  # noqa: D102
        self.losses.append(float(outputs["loss"]))
        self.ends.append(time.perf_counter())


def run_ours(work: Workload, dtype: str) -> Clock:
    """Train with our data module and module; returns times and losses."""
    device = device_of("cpu")
    config = model_config(dtype)
    base = load_base(config, device, backward=True)
    module = PaftModule(add_lora(base, config, seed=0), OPTIM, work.updates, seed=0)
    clock = Clock()
    pl.Trainer(
        accelerator="cpu", precision=precision_of(base.dtype), max_epochs=1, limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1, logger=False, callbacks=[clock], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, work.data_module())  # fmt: skip
    return clock


class TrlClock(TrainerCallback):
    """Notes when each of TRL's updates ended, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: D102
        if "loss" in logs:
            self.losses.append(logs["loss"])


def run_trl(work: Workload, dtype: str, micro_batch: int, loss_type: str, attention: str, max_updates: int = -1) -> TrlClock:
    """Train with TRL from the same initial adapter; returns times and losses."""
    from trl import SFTConfig, SFTTrainer

    config = model_config(dtype)
    torch_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    base = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch_dtype, attn_implementation=attention)
    base.requires_grad_(False)
    model: PeftModel = add_lora(base, config, seed=0)
    rate = PaftModule(model, OPTIM, work.updates, seed=0).learning_rate
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=OPTIM.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: rate(update) / OPTIM.lr)
    clock = TrlClock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=EXAMPLES_PER_UPDATE // micro_batch, num_train_epochs=1, max_steps=max_updates,
            max_grad_norm=OPTIM.max_grad_norm, max_length=1024, loss_type=loss_type, train_sampling_strategy="sequential",
            gradient_checkpointing=False, use_cpu=True, bf16=dtype == "bf16", logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True, pad_to_multiple_of=None, dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        SFTTrainer(
            model, arguments, train_dataset=work.trl_dataset(), processing_class=work.encoder.tokenizer,
            optimizers=(optimizer, schedule), callbacks=[clock],
        ).train()  # fmt: skip
    return clock


def tokens_per_s(work: Workload, ends: list[float]) -> float:
    """Return non-padding tokens per second, the warm-up updates aside."""
    return sum(work.tokens()[WARM_UP : len(ends)]) / (ends[-1] - ends[WARM_UP - 1])


def best_trl_settings(work: Workload, dtype: str) -> tuple[int, str, str]:
    """Probe TRL's settings on a few updates and return the fastest."""
    speeds: dict[tuple[int, str, str], float] = {}
    grid = [(m, loss, "sdpa") for m in (8, 4, 2) for loss in ("nll", "chunked_nll")]
    for step in ("micro-batch and loss", "attention"):
        if step == "attention":
            fastest = max(speeds, key=lambda s: speeds[s])
            grid = [(fastest[0], fastest[1], "eager")]
        for settings in grid:
            clock = run_trl(work, dtype, *settings, max_updates=WARM_UP + 3)
            speeds[settings] = tokens_per_s(work, clock.ends)
            print(
                f"  probe TRL micro-batch {settings[0]}, {settings[1]}, {settings[2]}: {speeds[settings]:.0f} tokens/s",
                flush=True,
            )
    return max(speeds, key=lambda s: speeds[s])


SIDES = ("ours", "trl", "trl_with_our_malloc")


def measure(side: str, arguments: argparse.Namespace, settings: tuple[int, str, str]) -> dict[str, float]:
    """Return tokens_per_s and peak_memory_gib of a fresh process that trains with one side."""
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.train_speed",
        "--data",
        arguments.data,
        "--updates",
        str(arguments.updates),
    ]
    command += ["--only", side, "--settings", json.dumps(settings)]
    out = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    measured: dict[str, float] = json.loads(out.strip().splitlines()[-1])
    return measured


def measure_here(side: str, arguments: argparse.Namespace) -> None:
    """Be the fresh process."""
    work = Workload(arguments.data, arguments.updates)
    if side != "trl":
        keep_freed_memory()  # as train.py does
    clock = run_ours(work, "bf16") if side == "ours" else run_trl(work, "bf16", *json.loads(arguments.settings))
    peak = peak_memory_bytes(torch.device("cpu")) / 2**30
    print(json.dumps({"tokens_per_s": tokens_per_s(work, clock.ends), "peak_memory_gib": peak}))


def multiply_rate(tokens: int) -> float:
    """Return the machine's bf16 multiply rate (FLOP/s) on the model's own matrix shapes, weighted by their work."""
    shapes = [(576, 576, 2), (576, 192, 2), (576, 1536, 2), (1536, 576, 1)]  # q,o; k,v; gate,up; down
    work = seconds = 0.0
    for inner, outer, count in shapes:
        a, b = torch.randn(tokens, inner).bfloat16(), torch.randn(outer, inner).bfloat16()
        times = []
        for _ in range(30):
            started = time.perf_counter()
            torch.nn.functional.linear(a, b)
            times.append(time.perf_counter() - started)
        work += count * 2 * tokens * inner * outer
        seconds += count * median(times)
    return work / seconds


def where_time_goes(work: Workload) -> dict[str, float]:
    """Return the share of CPU time of our update by kind of operator."""
    device = device_of("cpu")
    config = model_config("bf16")
    module = PaftModule(add_lora(load_base(config, device, backward=True), config, seed=0), OPTIM, 8, seed=0)
    trainer = pl.Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=6, limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        trainer.fit(module, work.data_module())
    kinds = {
        "matrix multiply": ("aten::mm", "aten::addmm", "aten::bmm"),
        "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
        "copies and casts": ("aten::copy_", "aten::index", "aten::_index_put_impl_", "aten::cat", "aten::index_select"),
        "element-wise": ("aten::mul", "aten::add", "aten::add_", "aten::silu", "aten::silu_backward", "aten::pow",
                         "aten::rsqrt", "aten::mean", "aten::neg", "aten::sum", "aten::div", "aten::masked_fill_"),
    }  # fmt: skip
    events = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
    total = sum(events.values())
    shares = {kind: sum(events.get(name, 0) for name in names) / total for kind, names in kinds.items()}
    return shares | {"everything else": 1 - sum(shares.values())}


def rendering_cost(work: Workload, seconds_per_update: float) -> dict[str, float]:
    """Return the share of an update that drawing, rendering and tokenising take, with pools of 10 and of 10,000."""
    shares = {}
    for size in (10, 10_000):
        text = work.pool.templates[0].text
        pool = PromptPool("many", tuple(PromptTemplate(f"Prompt {i}. {text}", f"p{i}") for i in range(size)), "letter", "shown")
        data = PaftDataModule(work.examples, pool, work.encoder, work.config.model_copy(update={"K": 1}))
        times = []
        updates = data.updates.of_epoch(0)
        next(updates)
        for _ in range(min(40, work.updates - 1)):
            started = time.perf_counter()
            data.renderings[next(updates)]
            times.append(time.perf_counter() - started)
        shares[f"pool of {size:,}"] = median(times) / seconds_per_update
    return shares


def page(measured: dict[str, Any]) -> list[str]:
    """Return the comparison as a page."""
    settings = ", ".join(f"{key} {value}" for key, value in measured["trl_settings"].items())
    speed, memory = measured["tokens_per_s"], measured["peak_memory_gib"]
    time_shares, rendering = measured["share_of_time"], measured["rendering_share"]
    sides = {"ours": "ours", "trl": f"TRL {measured['trl']} ({settings})", "trl_with_our_malloc": "TRL with our malloc setting"}
    rows = [[label, f"{speed[side]:.0f}", f"{memory[side]:.1f}"] for side, label in sides.items()]
    notes = [
        f"Median of paired rounds: {measured['ratio']:.2f} times TRL, {measured['ratio_with_our_malloc']:.2f} times TRL with "
        "our malloc setting.",
        f"Losses of the first 20 updates in fp32 differ by at most {measured['largest_loss_difference_fp32']:.0e}.",
        f"The step reaches {100 * measured['share_of_multiply_rate']:.0f}% of the machine's multiply rate on its matrix "
        "shapes; its time goes to " + ", ".join(f"{kind} {100 * share:.0f}%" for kind, share in time_shares.items()) + ".",
        "Drawing, rendering and tokenising take "
        + ", ".join(f"{100 * share:.1f}% of an update with a {pool}" for pool, share in rendering.items()) + ".",
    ]  # fmt: skip
    page = ["# Training speed on PIQA, SmolLM2-135M, bf16, two CPU cores", ""]
    page += [*table(["", "non-padding tokens/s", "peak memory, GiB"], rows), *bullets(notes)]
    return [
        *page,
        "Made by `python -m experiments.benchmarks.train_speed --data DIR --report experiments/results/train_speed`.",
    ]


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with piqa/train.jsonl")
    parser.add_argument("--updates", type=int, default=20, help="per round and side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, default=Path("outputs/train_speed"))
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)  # the fresh processes
    parser.add_argument("--settings", default="[]", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quieten()
    if arguments.only:
        measure_here(arguments.only, arguments)
        return

    exact = Workload(arguments.data, 20)
    ours32, trl32 = run_ours(exact, "fp32").losses, run_trl(exact, "fp32", 8, "nll", "sdpa").losses
    apart = max(abs(a - b) for a, b in zip(ours32, trl32, strict=True))
    print(f"Losses of the first 20 updates in fp32: at most {apart:.1e} apart", flush=True)

    work = Workload(arguments.data, arguments.updates)
    settings = best_trl_settings(work, "bf16")
    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append({side: measure(side, arguments, settings) for side in SIDES})
        line = ", ".join(f"{side} {measured['tokens_per_s']:.0f}" for side, measured in rounds[-1].items())
        print(f"Round {number}: {line} non-padding tokens/s", flush=True)
    keep_freed_memory()
    median_of = {
        figure: {side: median(measured[side][figure] for measured in rounds) for side in SIDES}
        for figure in ("tokens_per_s", "peak_memory_gib")
    }
    speed = median_of["tokens_per_s"]["ours"]
    per_update = sum(work.tokens()) / len(work.tokens())
    rate = multiply_rate(round(per_update))
    # Forward and input gradients of every linear layer; the frozen weights need no gradients of their own.
    linear = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    reached = speed * 4 * linear
    measured = {
        "ratio": median(r["ours"]["tokens_per_s"] / r["trl"]["tokens_per_s"] for r in rounds),
        "ratio_with_our_malloc": median(r["ours"]["tokens_per_s"] / r["trl_with_our_malloc"]["tokens_per_s"] for r in rounds),
        **median_of,
        "rounds": rounds,
        "trl_settings": dict(zip(("micro_batch", "loss_type", "attention"), settings, strict=True)),
        "largest_loss_difference_fp32": apart,
        "multiply_rate_flops": rate,
        "share_of_multiply_rate": reached / rate,
        "share_of_time": where_time_goes(work),
        "rendering_share": rendering_cost(work, per_update / speed),
        "processor": platform.processor(),
        "trl": __import__("trl").__version__,
        **provenance(torch.device("cpu")),
    }
    write(arguments.report, page(measured))
    write_json(arguments.report, measured)
    print(json.dumps({key: value for key, value in measured.items() if key not in ("versions", "git", "device")}, indent=2))


if __name__ == "__main__":
    run_plain(main)
