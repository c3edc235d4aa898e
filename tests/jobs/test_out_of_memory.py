"""Memory that runs out is one sentence; what was computed is kept, and a run that has computed nothing leaves nothing."""

import pytest
import torch

import paft
from paft.evaluation.likelihood import choice_log_probs
from paft.jobs.launch import launch_evaluation, launch_training
from paft.jobs.less_memory import less_for_training
from paft.jobs.preflight import check_evaluation, check_run
from paft.model.base import load_base
from paft.runtime.errors import NotEnoughMemoryError
from paft.training.losses import answer_loss
from tests.conftest import compose_config, compose_evaluation

CUDNN = RuntimeError(
    "Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false."
)
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")


def train(*overrides: str) -> paft.Results:
    config = compose_config(*overrides)
    return launch_training(config, check_run(config))


def failing(number: int, function, error: Exception):
    """A function whose calls fail from the given one on."""
    calls = []

    def call(*arguments, **settings):
        calls.append(1)
        if len(calls) >= number:
            raise error
        return function(*arguments, **settings)

    return call


@pytest.mark.parametrize("error", [CUDNN, CUBLAS, torch.OutOfMemoryError("CUDA out of memory.")], ids=str)
def test_a_run_that_has_computed_nothing_leaves_nothing(error, tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr("paft.training.update_loss.answer_loss", failing(2, answer_loss, error))
    with pytest.raises(
        NotEnoughMemoryError, match=r"^Memory ran out \(.*\): end what else uses this device and give the same"
    ) as told:
        train(*tiny_overrides)
    assert str(told.value).endswith(
        "which resumes, as it does with a smaller trainer.micro_batch_tokens=2048; or, which is another run, lower "
        "cutoff=1024, give model.activation_checkpointing=true."
    )
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=tilted", "sampler.templates_per_update=4"], "lower examples_per_update=8, give"),
        (
            ["loss=tilted", "sampler.paired=true", "sampler.templates_per_update=4"],
            "lower sampler.templates_per_update=4, give",
        ),
    ],
)
def test_what_is_compared_is_named_because_a_smaller_micro_batch_would_not_part_it(overrides, said):
    assert said in less_for_training(compose_config(*overrides))


def test_a_run_resumes_from_its_checkpoint_with_a_smaller_micro_batch(tiny_overrides, tmp_path, monkeypatch):
    undisturbed = train(*tiny_overrides, f"output_root={tmp_path / 'other'}")
    monkeypatch.setattr("paft.training.update_loss.answer_loss", failing(5, answer_loss, CUDNN))
    overrides = [*tiny_overrides, "trainer.checkpoint_every=1", "trainer.micro_batch_tokens=10000"]
    with pytest.raises(NotEnoughMemoryError, match=r"a smaller trainer\.micro_batch_tokens=10000"):
        train(*overrides)
    (folder,) = (tmp_path / "runs").iterdir()
    assert list(folder.glob("checkpoints/update-*.ckpt"))
    done = []
    monkeypatch.setattr("paft.training.update_loss.answer_loss", lambda *given: done.append(1) or answer_loss(*given))
    resumed = train(*tiny_overrides, "trainer.micro_batch_tokens=10000")
    assert resumed.folder == folder and resumed.training.updates == 6 and len(done) < 6
    assert resumed.robustness.mean == pytest.approx(undisturbed.robustness.mean)


def test_no_room_for_the_weights(tiny_overrides, tmp_path, monkeypatch):
    """Neither the architecture nor the path is to blame."""
    for target in ("paft.model.base.AutoModelForCausalLM.from_pretrained", "paft.model.packed_check.packed_logits"):
        with monkeypatch.context() as scarce:
            scarce.setattr(target, failing(1, load_base, CUBLAS))
            with pytest.raises(
                NotEnoughMemoryError, match=r"CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate\(handle\)`\)"
            ):
                train(*tiny_overrides)
    assert not (tmp_path / "runs").exists()


def test_an_evaluation_halves_its_batches_and_keeps_what_was_scored(tiny_llama, tmp_path, monkeypatch):
    config = compose_evaluation(
        "dataset=story_facts", f"++model.path={tiny_llama}", "model=smollm2_135m", f"model.path={tiny_llama}",
        "model.dtype=fp32", "trainer.accelerator=cpu", "trainer.progress=false", "eval_prompts=4", "eval_examples=8",
        "trainer.micro_batch_tokens=1500", f"output_root={tmp_path}",
    )  # fmt: skip

    def evaluate() -> paft.Results:
        return launch_evaluation(config, check_evaluation(config))

    def scarce(at_most: int, until: int):
        sizes = []

        def score(model, batch, *rest):
            cells = batch.lengths
            if len(cells) > at_most or (at_most == 1 and len(sizes) >= until):
                raise CUDNN
            sizes.append(len(cells))
            return choice_log_probs(model, batch, *rest)

        monkeypatch.setattr("paft.evaluation.likelihood.choice_log_probs", score)
        return sizes

    scarce(1, until=0)
    with pytest.raises(NotEnoughMemoryError, match=r"smaller batches were tried; .*another evaluation, lower cutoff=1024\.$"):
        evaluate()
    assert not list(tmp_path.iterdir())
    first = scarce(1, until=20)
    with pytest.raises(NotEnoughMemoryError, match="mha_graph"):
        evaluate()
    rest = scarce(3, until=0)
    split = evaluate()
    assert len(first) == 20 and max(rest) <= 3 and 12 <= sum(rest) < 32
    config.output_root = str(tmp_path / "whole")
    monkeypatch.undo()
    assert evaluate().robustness == split.robustness
