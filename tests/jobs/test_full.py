"""lora@model.lora=none: all weights are trained, in fp32; the run leaves a whole model that scores as it did in training."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import paft
import paft.cli.merge
from paft.cli.train import job
from paft.jobs.evaluate import run_evaluation
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.model.base import load_base, make_trainable
from paft.model.memory import training_memory
from paft.reporting.results import Results, read_results
from paft.runtime.errors import InputError
from paft.training.checkpoints import states
from tests.conftest import compose_config, compose_evaluation, small_run
from tests.model.test_architectures import POSITIONS, answer_log_probs, config_of, tiny
from tests.model.test_fused import PAIRS, far, update

CPU = torch.device("cpu")
FEW = ["trainer.accelerator=cpu", "trainer.progress=false", "eval_examples=6", "eval_prompts=3"]


@pytest.fixture(scope="module")
def full(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    small = small_run(tiny_llama, tmp_path_factory.mktemp("full"))
    rest = [override for override in small if not override.startswith("model.dtype")]
    return [*rest, "lora@model.lora=none", "optim.lr=1e-3", "trainer.checkpoint_every=1"]


@pytest.fixture(scope="module")
def trained(full: list[str]) -> Results:
    """A run that is only looked at afterwards."""
    return run_training(compose_config(*full))


@pytest.mark.parametrize("name", ["llama", "gemma3_text, window"])
def test_packed_and_fused_equal_plain_transformers(name, tmp_path):
    config = config_of(tiny(name, tmp_path)).model_copy(update={"lora": None, "dtype": "auto"})
    ours = make_trainable(load_base(config, CPU, backward=True, cutoff=POSITIONS), config, seed=0)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    loss, gradients = update(ours)
    wanted = -sum(answer_log_probs(plain, *pair).sum() for pair in PAIRS)
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=0)
    assert len(gradients) == len(list(plain.parameters()))
    assert far(gradients, [p.grad for p in plain.parameters()]) < 1e-4


def test_the_model_of_a_run_scores_as_the_run_did(trained, full, tmp_path):
    results, folder = trained, trained.folder
    assert not (folder / "adapter").exists() and read_results(folder) == results
    before, after = (
        load_file(path / "model.safetensors") for path in (Path(str(compose_config(*full).model.path)), folder / "model")
    )
    assert before.keys() == after.keys() and all((before[name] != after[name]).any() for name in before)
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert "paft" not in (folder / "model" / "config.json").read_text()
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (folder / "model").iterdir())
    typed = ["model=smollm2_135m", f"model.path={folder / 'model'}", "dataset=story_facts", f"output_root={tmp_path}", *FEW]
    again = run_evaluation(compose_evaluation(*typed))
    assert again.robustness == results.robustness
    state = torch.load(states(folder / "checkpoints")[0], weights_only=True)["state_dict"]
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(state)
    card = ModelCard.load(folder / "model" / "README.md")
    assert card.data.library_name == "transformers" and "all of whose weights were fine-tuned" in card.text
    about = json.loads((folder / "model" / "paft.json").read_text())
    assert about["base"] == results.fingerprints.base_model.sample != again.fingerprints.base_model.sample


@pytest.mark.parametrize("average", [[], ["optim.average=0.5"]], ids=["plain", "averaged"])
def test_an_interrupted_run_ends_as_an_undisturbed_one(average, trained, full, tmp_path, monkeypatch):
    whole = run_training(compose_config(*full, *average)) if average else trained
    config = compose_config(*full, *average, f"output_root={tmp_path / 'again'}")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("paft.jobs.train.save_files", interrupted)
        run_training(config)
    folder = tmp_path / "again" / whole.folder.name
    states(folder / "checkpoints")[0].unlink()  # so that the last update is repeated
    resumed = run_training(config)
    weights = "model/model.safetensors"
    assert (folder / weights).read_bytes() == (whole.folder / weights).read_bytes()
    assert resumed.robustness == whole.robustness and resumed.fingerprints == whole.fingerprints


def test_a_finished_run_takes_more_measures_and_is_repeated(trained, full, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / trained.folder.name)
    more = run_training(compose_config(*full, f"output_root={tmp_path}", "extra_measures=[generate]"))
    assert more.folder == folder and more.extra_measures.generate is not None and more.training == trained.training
    overrides = [f"rerun={folder / 'results.json'}", f"output_root={tmp_path}"]
    again = job(compose_config(*overrides), overrides)
    assert again.robustness == trained.robustness and again.fingerprints == trained.fingerprints


def test_the_plan_says_what_it_takes(full):
    run, adapter = prepare(compose_config(*full)), prepare(compose_config(*full, "lora@model.lora=paper", "model.dtype=fp32"))
    assert run.plan.memory_bytes > adapter.plan.memory_bytes
    assert run.advice[1:] == ("optim.lr=0.0001: all weights are trained, and 0.001 is for adapters",)
    assert prepare(compose_config(*full, "optim.lr=1e-4", "K=1", "train_prompts=3")).advice == ()


def test_memory_is_sixteen_bytes_a_weight(tmp_path):
    config = config_of(tiny("llama", tmp_path)).model_copy(update={"lora": None, "dtype": "auto"})
    architecture = AutoModelForCausalLM.from_pretrained(tmp_path).config
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(architecture)
    frozen = training_memory(config, base.requires_grad_(False), CPU, 64, 64)
    trained = training_memory(config, base.requires_grad_(True), CPU, 64, 64)
    assert trained - frozen == (16 - 4) * sum(p.numel() for p in base.parameters())


def test_merging_says_that_there_is_nothing_to_merge_and_exports(trained, tmp_path, monkeypatch):
    folder, out = trained.folder, tmp_path / "exported"
    monkeypatch.setattr(sys, "argv", ["paft merge", str(folder), "--out", str(out)])
    with pytest.raises(
        InputError, match=r"model: all weights of this run were trained, so there is nothing to merge; use this"
    ):
        paft.cli.merge.main()
    monkeypatch.setattr(sys, "argv", ["paft merge", str(folder), "--out", str(out), "--dtype", "bf16"])
    paft.cli.merge.main()
    exported, ours = load_file(out / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(exported[name], ours[name].bfloat16()) for name in ours)
    assert "all of whose weights were fine-tuned" in (out / "README.md").read_text()
    assert {path.name for path in (folder / "model").iterdir()} - {path.name for path in out.iterdir()} == {"paft.json"}
    with pytest.raises(InputError, match=r"holds no adapter; its model is model=\{'path': '.*model'\}"):
        paft.evaluate(trained)
