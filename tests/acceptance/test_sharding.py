"""A sharded base model (gloo, two ranks on the CPU, where the commands refuse it): the numbers of a whole one."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import paft.jobs.evaluate
import paft.jobs.one_run
import paft.jobs.train
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.data.batch import Update
from paft.evaluation.store import read_cells
from paft.model.sharding import is_sharded
from paft.runtime.launch import run_on
from paft.training.module import PaftModule
from tests.conftest import compose_config, compose_evaluation
from tests.test_ranks import trajectory

# The last update of an epoch has one example, of which rank 1 has none; ranks have unequal numbers of micro-batches.
# A sharded model has no fused operations.
SHAPE = ["train_examples=25", "T=2", "trainer.micro_batch_tokens=256", "model.lora.dropout=0", "trainer.fused=off"]


def sharded(config: TrainConfig | EvaluateConfig) -> None:
    """Do what a rank does on a GPU, on the CPU; see that the model is in parts and that ranks keep step."""
    paft.jobs.one_run.check_sharding = paft.jobs.evaluate.check_sharding = lambda *_: None
    if isinstance(config, EvaluateConfig):
        paft.jobs.evaluate.run_evaluation(config)
        return
    step, counts = PaftModule.training_step, []

    def counted(module: PaftModule, batch: Update, batch_idx: int) -> dict[str, Any]:
        assert is_sharded(module.model)
        layer = module.model.get_base_model().model.layers[0]
        assert layer.mlp.up_proj.weight.to_local().shape[0] == 32  # of 64
        counts.append(len(batch.micro_batches))
        return step(module, batch, batch_idx)

    PaftModule.training_step = counted  # type: ignore[method-assign]
    paft.jobs.train.run_training(config)
    everybody: list[list[int]] = [[], []]
    torch.distributed.all_gather_object(everybody, counts)
    assert everybody[0] == everybody[1] and (len(set(counts)) > 1 or config.loss.compares)


LOSSES = [
    ["loss=perturbed", "loss.warmup=0", "sampler=worst_of", "sampler.adversarial=1", "sampler.warmup=0"],
    ["loss=consistent", "sampler.templates_per_update=2", "sampler.paired=true"],
]


@pytest.mark.parametrize("own", LOSSES, ids=lambda own: own[0])
def test_a_sharded_model_has_the_losses_of_a_whole_one(own, tiny_overrides, tmp_path):
    folders = []
    for strategy, work in (("auto", paft.jobs.train.run_training), ("fsdp", sharded)):
        root = tmp_path / strategy
        config = compose_config(*tiny_overrides, *SHAPE, *own, "T=1", f"trainer.strategy={strategy}", f"output_root={root}")
        run_on(2, "cpu", work, config)
        folders.append(root / config.run_name)
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders]
    assert all(torch.equal(adapters[0][key], adapters[1][key]) for key in adapters[0])


def test_a_sharded_model_trains_and_scores_as_a_whole_one(tiny_overrides, tmp_path):
    folders = []
    for strategy, work in (("auto", paft.jobs.train.run_training), ("fsdp", sharded)):
        root = tmp_path / strategy
        config = compose_config(*tiny_overrides, *SHAPE, f"trainer.strategy={strategy}", f"output_root={root}")
        run_on(2, "cpu", work, config)
        folders.append(root / config.run_name)
    assert trajectory(folders[0]) == trajectory(folders[1])
    adapters = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders]
    assert all(torch.equal(adapters[0][key], adapters[1][key]) for key in adapters[0])
    cells = [read_cells(folder / "matrix.parquet").to_pydict() for folder in folders]
    assert cells[0]["predicted"] == cells[1]["predicted"]
    np.testing.assert_allclose(np.concatenate(cells[1]["log_probs"]), np.concatenate(cells[0]["log_probs"]), atol=1e-4)
    small = ["eval_prompts=2", "eval_examples=4", "scoring=generate", "max_new_tokens=4", "trainer.accelerator=cpu"]
    evaluation = compose_evaluation(
        f"adapter={folders[1] / 'adapter'}", f"output_root={tmp_path / 'evaluations'}", *small, "trainer=fsdp"
    )
    run_on(2, "cpu", sharded, evaluation)
    assert len(list((tmp_path / "evaluations").glob("*/results.json"))) == 1
