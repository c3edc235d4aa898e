"""TRL's training updates of the same rows, at the fastest of its settings: what ours are measured against."""

import gc
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

from experiments.benchmarks.updates import EPOCHS, Clock, Workload
from paft.model.base import add_lora, dtype_of
from paft.model.converted import loadable
from paft.runtime.errors import first_sentence
from paft.runtime.memory import is_out_of_memory
from paft.training.module import PaftModule


class Settings(TypedDict):
    """What can make TRL faster or slower and changes nothing that is learnt.

    Packing is left out: it would put other examples into an update. padding_free makes one row of a micro-batch.
    """

    micro_batch: int
    attention: str
    padding_free: bool
    liger: bool


def in_words(settings: Settings) -> str:
    """Return settings as a page shows them."""
    extra = [name for name, on in (("padding-free", settings["padding_free"]), ("liger", settings["liger"])) if on]
    return ", ".join([f"micro-batch {settings['micro_batch']}", settings["attention"], *extra])


def liger_installed() -> bool:
    """Whether TRL can use Liger's kernels here."""
    return all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))


class _Callback(TrainerCallback):
    """Tells the clock when an epoch begins and ends, and the losses that are logged."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Called by TRL."""
        self.clock.begin()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Called by TRL."""
        self.clock.end()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Called by TRL."""
        if "loss" in logs:
            self.clock.losses.append(logs["loss"])


def run_trl(work: Workload, settings: Settings, traced: bool = False, losses: bool = False) -> Clock:
    """Train with TRL's SFTTrainer from the same initial adapter, in the same order.

    Args:
        losses: whether each update's loss is noted, for which TRL waits for it; else every tenth is, as TRL does by itself.
    """
    from trl import SFTConfig, SFTTrainer

    _quieten()
    config, device = work.config, work.device
    optim, total = config.optim, work.updates * EPOCHS
    dtype = dtype_of(config.model, device)
    path = loadable(config.model.path, config.model.accept_license)
    base = AutoModelForCausalLM.from_pretrained(
        path, revision=config.model.revision, dtype=dtype, attn_implementation=settings["attention"]
    ).to(device)  # type: ignore[arg-type]
    base.requires_grad_(False)
    model: PeftModel = add_lora(base, config.model, config.seed)
    rate = PaftModule(model, optim, total, config.seed).learning_rate
    adapter = [p for p in model.parameters() if p.requires_grad]
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(adapter, lr=optim.lr, weight_decay=optim.weight_decay, fused=on_gpu or None)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: rate(update) / optim.lr)
    clock = Clock(device, traced)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch, per_device_train_batch_size=settings["micro_batch"],
            gradient_accumulation_steps=config.examples_per_update // settings["micro_batch"], num_train_epochs=EPOCHS,
            max_grad_norm=optim.max_grad_norm, max_length=None if settings["padding_free"] else config.cutoff,
            padding_free=settings["padding_free"], use_liger_kernel=settings["liger"],
            train_sampling_strategy="sequential", gradient_checkpointing=config.model.activation_checkpointing,
            use_cpu=not on_gpu, bf16=dtype == torch.bfloat16, logging_steps=1 if losses else 10, save_strategy="no",
            report_to="none", disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        SFTTrainer(
            model, arguments, train_dataset=Dataset.from_list(work.rows()), processing_class=work.encoder.tokenizer,
            optimizers=(optimizer, schedule), callbacks=[_Callback(clock)],
        ).train()  # fmt: skip
    return clock


class Probe:
    """Tries TRL's settings on a few updates, one after the other; what does not fit or run is said and left out."""

    def __init__(self, work: Workload) -> None:
        self.work = work
        self.seconds: list[tuple[float, Settings]] = []
        self.said: list[str] = []

    def fastest(self) -> Settings:
        """Return the fastest settings: first the micro-batch, then, with the best of these, attention and padding-free rows.

        Raises RuntimeError if TRL runs with no micro-batch.
        """
        for settings in _micro_batches(self.work.config.examples_per_update):
            self._try(settings)
        if not self.seconds:
            raise RuntimeError(f"TRL runs with none of its micro-batches: {'; '.join(self.said)}")
        for settings in _variations(self._best, self.work.device):
            self._try(settings)
        return self._best

    @property
    def _best(self) -> Settings:
        return min(self.seconds, key=lambda each: each[0])[1]

    def _try(self, settings: Settings) -> None:
        try:
            seconds = run_trl(self.work, settings).seconds[1]
            self.seconds.append((seconds, settings))
            found = f"{self.work.tokens / seconds:.0f} tokens/s"
        except Exception as error:  # a kernel that is missing here, a mask too large: another setting may do
            found = "out of memory" if is_out_of_memory(error) else first_sentence(error)
        self.said.append(f"TRL, {in_words(settings)}: {found}")
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _micro_batches(examples: int) -> Iterator[Settings]:
    for parts in (1, 2, 4):
        if examples % parts == 0:
            yield {"micro_batch": examples // parts, "attention": "sdpa", "padding_free": False, "liger": False}


def _variations(best: Settings, device: torch.device) -> Iterator[Settings]:
    flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    yield {**best, "attention": "flash_attention_2" if flash else "eager"}
    yield {**best, "padding_free": True}
    if flash:
        yield {**best, "attention": "flash_attention_2", "padding_free": True}


def _quieten() -> None:
    """Silence what TRL, accelerate and transformers say at every start."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("transformers", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
