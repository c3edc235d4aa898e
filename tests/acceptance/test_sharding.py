"""A sharded base model (gloo, two ranks on the CPU, where the commands refuse it): the numbers of a whole one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import paft.jobs.evaluate
import paft.jobs.one_run
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.data.batch import Update
from paft.evaluation.store import read_cells
from paft.jobs.train import run_training
from paft.model.sharding import is_sharded
from paft.runtime.launch import run_on
from paft.training.module import PaftModule
from tests.conftest import compose_config, compose_evaluation
from tests.test_ranks import train_all, trajectory

# The last update of an epoch has one example, of which rank 1 has none; ranks have unequal numbers of micro-batches.
# A sharded model has no fused operations.
SHAPE = ["train_examples=25", "T=2", "trainer.micro_batch_tokens=256", "model.lora.dropout=0", "trainer.fused=off"]


RUNS = {
    "mean": [],
    "perturbed": ["T=1", "loss=perturbed", "loss.warmup=0", "sampler=worst_of", "sampler.adversarial=1", "sampler.warmup=0"],
    "consistent": ["T=1", "loss=consistent", "sampler.templates_per_update=2", "sampler.paired=true"],
}


def train_sharded(configs: Sequence[TrainConfig]) -> None:
    """Do what a rank does on a GPU, on the CPU; see that the model is in parts and that ranks keep step."""
    paft.jobs.one_run.check_sharding = lambda *_: None
    step, counts = PaftModule.training_step, []

    def counted(module: PaftModule, batch: Update, batch_idx: int) -> dict[str, Any]:
        assert is_sharded(module.model)
        layer = module.model.get_base_model().model.layers[0]
        assert layer.mlp.up_proj.weight.to_local().shape[0] == 32  # of 64
        counts.append(len(batch.micro_batches))
        return step(module, batch, batch_idx)

    PaftModule.training_step = counted  # type: ignore[method-assign]
    for config in configs:
        counts.clear()
        run_training(config)
        everybody: list[list[int]] = [[], []]
        torch.distributed.all_gather_object(everybody, counts)
        assert everybody[0] == everybody[1] and (len(set(counts)) > 1 or config.loss.compares)


def evaluate_sharded(config: EvaluateConfig) -> None:
    """Evaluate with a model in parts, on the CPU."""
    paft.jobs.evaluate.check_sharding = lambda *_: None
    paft.jobs.evaluate.run_evaluation(config)


def test_a_sharded_model_trains_and_scores_as_a_whole_one(tiny_overrides, tmp_path):
    folders: dict[str, list[Path]] = {}
    for strategy, work in (("auto", train_all), ("fsdp", train_sharded)):
        where = [f"trainer.strategy={strategy}", f"output_root={tmp_path / strategy}"]
        configs = [compose_config(*tiny_overrides, *SHAPE, *own, *where) for own in RUNS.values()]
        run_on(2, "cpu", work, configs)
        folders[strategy] = [tmp_path / strategy / config.run_name for config in configs]
    for whole, parts in zip(folders["auto"], folders["fsdp"], strict=True):
        assert trajectory(whole) == trajectory(parts)
        adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, parts)]
        assert all(torch.equal(adapters[0][key], adapters[1][key]) for key in adapters[0])
        cells = [read_cells(folder / "matrix.parquet").to_pydict() for folder in (whole, parts)]
        assert cells[0]["predicted"] == cells[1]["predicted"]
        np.testing.assert_allclose(np.concatenate(cells[1]["log_probs"]), np.concatenate(cells[0]["log_probs"]), atol=1e-4)
    small = ["eval_prompts=2", "eval_examples=4", "scoring=generate", "max_new_tokens=4", "trainer.accelerator=cpu"]
    evaluation = compose_evaluation(
        f"adapter={folders['fsdp'][0] / 'adapter'}", f"output_root={tmp_path / 'evaluations'}", *small, "trainer=fsdp"
    )
    run_on(2, "cpu", evaluate_sharded, evaluation)
    assert len(list((tmp_path / "evaluations").glob("*/results.json"))) == 1
