"""What a GPU computes is what a CPU computes: updates, resumed runs, scores. Skipped where there is no GPU.

DEVICE = "cpu" runs the same tests against themselves, which shows that they are no nonsense.
"""

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from paft.config.schema import LoraConfig, ModelConfig
from paft.data.batch import pack_answers
from paft.evaluation.store import read_cells
from paft.jobs.evaluate import run_evaluation
from paft.jobs.train import run_training
from paft.model.attention import packs_ragged
from paft.model.base import add_lora, load_base
from paft.packing import to_device
from paft.prompts import by_loss
from paft.training.losses import answer_loss
from tests.conftest import compose_config, compose_evaluation, whole_and_resumed
from tests.training.test_module import PAIRS, losses

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as a run sets it, before cuBLAS is first used
ADAPTER = "adapter/adapter_model.safetensors"
# Two ways of rounding to bf16 may each be as far from fp32 as the other, on the other side.
NOISE = 2.0


@dataclass
class Gradients:
    """The loss of an update, and its gradients in one tensor."""

    loss: Tensor
    of_adapter: Tensor


def update(folder, device, dtype, attention="auto") -> Gradients:
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj"])
    config = ModelConfig(path=str(folder), dtype=dtype, attention=attention, lora=lora)
    model = add_lora(load_base(config, torch.device(device), backward=True), config, seed=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(1)
    for parameter in trained:  # so that the adapter does something
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.05).to(parameter)
    batch = to_device(pack_answers(PAIRS, packs_ragged(model)), torch.device(device))
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
        loss = answer_loss(model, batch)
    loss.backward()
    return Gradients(loss.detach().cpu(), torch.cat([p.grad.flatten().cpu() for p in trained]))


def distance(one: Tensor, other: Tensor) -> float:
    """Return how far a tensor is from another, relative to the other's size."""
    return float((one - other).norm() / other.norm())


def test_an_update_in_fp32_is_the_cpus(tiny_llama):
    ours, cpus = (update(tiny_llama, device, "fp32", "sdpa") for device in (DEVICE, "cpu"))
    assert distance(ours.loss, cpus.loss) < 1e-3
    assert distance(ours.of_adapter, cpus.of_adapter) < 1e-3


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_an_update_in_bf16_is_the_cpus_within_the_rounding_of_bf16(tiny_llama, attention):
    ours, cpus, exact = (
        update(tiny_llama, DEVICE, "bf16", attention), update(tiny_llama, "cpu", "bf16"), update(tiny_llama, "cpu", "fp32")
    )  # fmt: skip
    assert distance(ours.loss, exact.loss) < NOISE * max(distance(cpus.loss, exact.loss), 2**-9)
    assert distance(ours.of_adapter, exact.of_adapter) < NOISE * distance(cpus.of_adapter, exact.of_adapter)


def test_a_run_with_graphs_is_a_run_without_them(tiny_overrides, tmp_path):
    common = [*tiny_overrides, f"trainer.accelerator={DEVICE}", "model.dtype=bf16", "model.lora.dropout=0.1"]
    off = losses(compose_config(*common, "trainer.graphs=off", f"output_root={tmp_path / 'off'}"))
    config = compose_config(*common, "trainer.graphs=auto", f"output_root={tmp_path / 'auto'}")
    assert losses(config) == pytest.approx(off, rel=1e-2)
    results = run_training(config)  # finished: it is read
    assert (results.training.kernels.graphs > 0) == (DEVICE == "cuda")


# What looks at templates besides the mean loss of uniform draws.
METHODS = {
    "tilted": ["loss=tilted", "loss.warmup=0.25", "sampler.templates_per_update=4"],
    "consistent": ["loss=consistent", "loss.warmup=0.25", "sampler.templates_per_update=2", "sampler.paired=true"],
    "perturbed": ["loss=perturbed", "loss.warmup=0.25"],
    "by loss": ["sampler=by_loss", "sampler.lag=2", "K=1"],
    "worst of": ["sampler=worst_of", "sampler.adversarial=1", "sampler.warmup=0.25", "K=2"],
}


# Of these a choice between prompts that are within rounding may be another on another device, or by graphs.
CHOOSE = ("by loss", "worst of")
LOSSES = [method for name, method in METHODS.items() if name not in CHOOSE]


@pytest.mark.parametrize("method", LOSSES, ids=lambda method: method[0])
def test_a_loss_in_fp32_is_the_cpus(tiny_overrides, tmp_path, method):
    of_device = [
        losses(compose_config(*tiny_overrides, *method, f"trainer.accelerator={device}", f"output_root={tmp_path / str(i)}"))
        for i, device in enumerate((DEVICE, "cpu"))
    ]
    assert of_device[0] == pytest.approx(of_device[1], rel=1e-3)


@pytest.mark.parametrize("method", LOSSES, ids=lambda method: method[0])
def test_a_loss_with_graphs_is_the_one_without_them(tiny_overrides, tmp_path, method):
    common = [*tiny_overrides, *method, f"trainer.accelerator={DEVICE}", "model.dtype=bf16"]
    off, auto = (
        losses(compose_config(*common, f"trainer.graphs={graphs}", f"output_root={tmp_path / graphs}"))
        for graphs in ("off", "auto")
    )
    assert auto == pytest.approx(off, rel=1e-2)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_resumed_run_of_a_method_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch, method):
    monkeypatch.setattr(by_loss, "_LUCK", 0.0)  # a random model has hardly more than noise to draw by
    common = [*tiny_overrides, *method, f"trainer.accelerator={DEVICE}", "model.dtype=bf16", "trainer.checkpoint_every=1"]
    whole, resumed = whole_and_resumed(common, tmp_path / "again", monkeypatch)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_a_resumed_run_is_an_undisturbed_one_bit_for_bit(tiny_overrides, tmp_path, monkeypatch, graphs):
    dropout = ["model.dtype=bf16", "model.lora.dropout=0.1"]
    device = [f"trainer.accelerator={DEVICE}", f"trainer.graphs={graphs}", "trainer.checkpoint_every=1"]
    overrides = [*tiny_overrides, *dropout, *device]
    whole, resumed = whole_and_resumed(overrides, tmp_path / "again", monkeypatch)
    assert (resumed.folder / ADAPTER).read_bytes() == (whole.folder / ADAPTER).read_bytes()


def log_probs(folder, root, device, dtype, graphs="auto") -> tuple[Tensor, list[int]]:
    """Return the log-probabilities of all choices, and the predictions, of an evaluation."""
    run_evaluation(
        compose_evaluation(
            "adapter=null", "model=smollm2_135m", f"model.path={folder}", f"model.dtype={dtype}", "dataset=story_facts",
            "eval_prompts=6", "eval_examples=12", f"trainer.accelerator={device}", f"trainer.graphs={graphs}",
            "trainer.progress=false", "trainer.micro_batch_tokens=1500", f"output_root={root}",
        )
    )  # fmt: skip
    (file,) = root.glob("*/matrix.parquet")
    cells = read_cells(file, ["prompt", "example", "log_probs", "predicted"]).to_pylist()
    cells.sort(key=lambda cell: (cell["prompt"], cell["example"]))
    return torch.tensor([cell["log_probs"] for cell in cells]), [cell["predicted"] for cell in cells]


def test_scores_in_fp32_are_the_cpus(tiny_llama, tmp_path):
    (ours, predicted), (cpus, expected) = (
        log_probs(tiny_llama, tmp_path / f"{i}", device, "fp32") for i, device in enumerate((DEVICE, "cpu"))
    )
    assert (ours - cpus).abs().max() < 1e-3
    gap = cpus.topk(2).values.diff().abs().flatten() > 2e-3  # where the two best choices are not within rounding
    assert gap.any() and all(a == b for a, b, clear in zip(predicted, expected, gap, strict=True) if clear)


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_scores_in_bf16_are_the_cpus_within_the_rounding_of_bf16(tiny_llama, tmp_path, graphs):
    ours = log_probs(tiny_llama, tmp_path / "ours", DEVICE, "bf16", graphs)[0]
    cpus, exact = (log_probs(tiny_llama, tmp_path / dtype, "cpu", dtype)[0] for dtype in ("bf16", "fp32"))
    assert distance(ours, exact) < NOISE * distance(cpus, exact)
