"""Training updates of a large model with random weights: tokens per second and peak memory, beside what the plan estimates.

    python -m experiments.benchmarks.large_step [--shape llama3_8b] [--report outputs/large_step] [overrides]

Overrides are train.py's. Nothing is downloaded: the shape is Llama-3-8B's, the tokenizer the embedded model's (it has fewer
tokens), the rows are story_facts' unless others are named (dataset=race data_root=DIR: the paper's longest). One row with
activations checkpointed and one without, each for several sizes of micro-batch; where memory runs out, that is said. Updates
are our own: data module, packed micro-batches, LoRA on q and v, AdamW.
"""

import argparse
import gc
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.config.schema import TrainConfig
from paft.data.datamodule import PaftDataModule
from paft.data.encode import Encoder
from paft.data.inputs import answer_kind
from paft.jobs.preflight import CheckedRun, check_run
from paft.model.attention import NAMES, register
from paft.model.base import add_lora, device_of, dtype_of, kernel_of, load_tokenizer
from paft.model.memory import training_memory
from paft.reporting.page import table, write, write_json
from paft.reporting.provenance import peak_memory_bytes, provenance, reset_peak_memory
from paft.runtime.memory import is_out_of_memory
from paft.runtime.process import quieten
from paft.training.fit import precision_of
from paft.training.module import PaftModule

_GROUPED: dict[str, Any] = {"max_position_embeddings": 8192, "rope_theta": 500_000.0, "tie_word_embeddings": False}
SHAPES = {
    "llama3_8b": LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, **_GROUPED,
    ),
    "small": LlamaConfig(  # to try the script where there is no GPU
        vocab_size=49_152, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, **_GROUPED,
    ),
}  # fmt: skip
MICRO_BATCHES = (2048, 4096, 8192)  # tokens
UPDATES, WARM_UP = 12, 3


class Clock(pl.Callback):
    """Notes when each update ended, and how many real tokens it had."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int) -> None:  # noqa: D102
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.tokens.append(batch.n_tokens)

    @property
    def tokens_per_s(self) -> float:
        """The median over the updates behind the warm-up."""
        spans = zip(self.ends, self.ends[1:], self.tokens[1:], strict=False)
        return median([tokens / (end - start) for start, end, tokens in spans][WARM_UP - 1 :])


def measure(shape: LlamaConfig, config: TrainConfig, checked: CheckedRun) -> dict[str, Any]:
    """Train the updates of a config on random weights; returns a row of the table."""
    assert checked.inputs.train is not None
    device = device_of(config.trainer.accelerator)
    reset_peak_memory()
    attention = NAMES[kernel_of(config.model, device, backward=True)]
    with device:
        base = AutoModelForCausalLM.from_config(shape, dtype=dtype_of(config.model, device), attn_implementation=attention)
    base.requires_grad_(False)
    adapted = add_lora(base, config.model, seed=0)
    examples, pool = checked.inputs.examples, checked.inputs.train
    encoder = Encoder(load_tokenizer(config.model), answer_kind(config.dataset, examples.task), config.cutoff)
    data = PaftDataModule(examples.train, pool, encoder, config)
    clock = Clock()
    row = {
        "tokens of a micro-batch": config.trainer.micro_batch_tokens,
        "activations checkpointed": config.model.activation_checkpointing,
        "tokens/s": None,
        "peak GiB": None,
        "planned GiB": _planned(config, adapted, data, device) / 2**30,
    }
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision=precision_of(base.dtype), max_epochs=1,
        limit_val_batches=0, reload_dataloaders_every_n_epochs=1, logger=False, callbacks=[clock], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    try:
        trainer.fit(PaftModule(adapted, config.optim, UPDATES, seed=0), data)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return row
    return row | {"tokens/s": clock.tokens_per_s, "peak GiB": peak_memory_bytes(device) / 2**30}


def _planned(config: TrainConfig, adapted: PeftModel, data: PaftDataModule, device: torch.device) -> int:
    """Return what a run's plan would estimate for the largest micro-batch of these updates."""
    packings = [batch.packing for tagged in data.updates.of_epoch(0) for batch in data.renderings[tagged].micro_batches]
    tokens = max(packing.input_ids.shape[1] for packing in packings)
    longest = max(rectangle.position.shape[1] for packing in packings for rectangle in packing.rectangles)
    return training_memory(config.model, adapted, device, tokens, longest)


def page(shape: str, rows: list[dict[str, Any]], origin: dict[str, Any], overrides: list[str]) -> list[str]:
    """Return the page."""
    command = " ".join(["python -m experiments.benchmarks.large_step", "--shape", shape, *overrides])
    lines = [f"# Training updates of {shape} with random weights", ""]
    lines += [f"{origin['device'].name}; median of {UPDATES - WARM_UP} updates; real tokens, no padding.", ""]
    lines += table(list(rows[0]), [list(map(_cell, row.values())) for row in rows])
    return [*lines, f"Made by `{command}`. Config, versions and device: results.json."]


def _cell(value: Any) -> str:
    if value is None:
        return "out of memory"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def main() -> None:
    """Measure every row; write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama3_8b")
    parser.add_argument("--report", type=Path, default=Path("outputs/large_step"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    quieten()
    register()
    rows: list[dict[str, Any]] = []
    for checkpointed in (True, False):
        for tokens in MICRO_BATCHES:
            settings = [
                f"train_examples={64 * UPDATES}", "examples_per_update=64", "T=1", f"trainer.micro_batch_tokens={tokens}",
                f"model.activation_checkpointing={checkpointed}", *arguments.overrides,
            ]  # fmt: skip
            config = compose_training(settings)
            rows.append(measure(SHAPES[arguments.shape], config, check_run(config)))
            print({name: _cell(value) for name, value in rows[-1].items()}, flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    origin = provenance(device_of(config.trainer.accelerator))
    text = page(arguments.shape, rows, origin, arguments.overrides)
    print("\n".join(text))
    content = {"shape": arguments.shape, "rows": rows, "config": config.model_dump(), **origin}
    write(arguments.report, text)
    write_json(arguments.report, content)


if __name__ == "__main__":
    run_plain(main)
