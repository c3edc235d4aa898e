"""From config to results on a tiny Llama."""

import csv
import json
import shutil
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import paft.cli.merge
from paft.cli.train import job
from paft.config.adapter import read_metadata
from paft.config.command import command
from paft.config.schema import ModelConfig
from paft.jobs.one_run import prepare
from paft.jobs.rerun import repeated
from paft.jobs.train import run_training, train
from paft.model.base import load_base
from paft.prompts import shipped_pool_path
from paft.prompts.seen import Seen
from paft.reporting.results import Results, read_results
from paft.runtime.errors import InputError
from paft.training.callbacks import Recorder
from paft.training.checkpoints import SaveBest, states
from tests.commands import run_command
from tests.conftest import NO_COMMIT, compose_config, small_run


@pytest.fixture(scope="module")
def usual(tiny_llama, tmp_path_factory) -> list[str]:
    """What is typed for a run that is only looked at afterwards."""
    return small_run(tiny_llama, tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def trained(usual) -> Results:
    return run_training(compose_config(*usual))


def test_train_to_results(trained, usual):
    results, folder = trained, trained.folder
    assert (results.version, results.kind) == (1, "training") and read_results(folder) == results
    assert (results.robustness.n_prompts, results.robustness.n_examples, results.chance) == (3, 6, 0.25)
    assert results.training.updates == 6 and results.plan.updates == 6
    assert results.fingerprints.pools["train"].prompts == 60
    assert results.versions["torch"] == torch.__version__
    rows = list(csv.DictReader((folder / "per_prompt.csv").open()))
    assert [list(row) for row in rows] == [["prompt_id", "accuracy", "n", "wording", "layout", "text"]] * 3
    assert rows[0]["n"] == "6" and "{story}" in rows[0]["text"] and rows[0]["wording"]
    accuracies = [float(row["accuracy"]) for row in rows]
    assert sum(accuracies) / 3 == pytest.approx(results.robustness.mean, abs=1e-6)
    assert (folder / "distribution.png").stat().st_size > 1000
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "In training" in page and '<span class="special">&lt;end&gt;</span>' in page  # as it was tokenised
    assert "24 rows of story_facts under" in page and escape(command(compose_config(*usual))) in page
    log = list(csv.DictReader((folder / "log" / "version_0" / "metrics.csv").open()))
    assert sum(bool(row["loss"]) for row in log) == 6
    assert sum(bool(row["validation/mean"]) for row in log) == 2


def test_k_t_and_seed_reach_the_schedule_and_the_trainer(tiny_overrides):
    run = prepare(compose_config(*tiny_overrides, "K=2", "T=5", "seed=7"))
    assert run.plan.updates == 5 * 3 and run.plan.draws == 5 * 2
    assert train(run).training.updates == 15
    assert torch.load(states(run.folder.path / "checkpoints")[0], weights_only=True)["global_step"] == 15


def test_a_finished_run_is_not_repeated(trained, usual, capsys):
    before = (trained.folder / "results.json").stat().st_mtime_ns
    assert run_training(compose_config(*usual)).folder == trained.folder
    assert (trained.folder / "results.json").stat().st_mtime_ns == before
    assert "Finished already" in capsys.readouterr().out


def test_the_checkpoint_holds_the_adapter_alone(trained):
    state = torch.load(states(trained.folder / "checkpoints")[0], weights_only=True)["state_dict"]
    assert state and all("lora_" in key for key in state)


def test_an_interrupted_run_ends_as_an_undisturbed_one(tiny_overrides, tmp_path, monkeypatch):
    from paft.training.module import PaftModule

    overrides = [*tiny_overrides, "model.lora.dropout=0.1"]
    whole = run_training(compose_config(*overrides))
    config = compose_config(*overrides, f"output_root={tmp_path / 'again'}")
    step = PaftModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PaftModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_training(config)
    monkeypatch.undo()
    resumed = run_training(config)
    assert resumed.robustness == whole.robustness
    files = (states(results.folder / "checkpoints")[0] for results in (whole, resumed))
    one, other = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_adapter_opens_with_stock_peft_in_a_fresh_process(trained, tiny_llama, tmp_path):
    folder = trained.folder
    script = (
        "import sys, torch\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "model = PeftModel.from_pretrained(base, sys.argv[2]).eval()\n"
        "torch.save(model(torch.arange(20)[None]).logits, sys.argv[3])\n"
    )
    out = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", script, tiny_llama, folder / "adapter", out], check=True)
    config = ModelConfig.model_validate(read_metadata(folder / "adapter")["model"])
    ours = PeftModel.from_pretrained(load_base(config, torch.device("cpu")), folder / "adapter").eval()
    with torch.no_grad():
        here = ours(torch.arange(20)[None]).logits
        base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)(torch.arange(20)[None]).logits
    fresh = torch.load(out, weights_only=True)
    torch.testing.assert_close(fresh, here, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(fresh, base, atol=1e-4)  # it was trained
    assert "base_model" in (folder / "adapter" / "README.md").read_text()


def test_merged_model_equals_the_adapted_one(trained, tiny_llama, tmp_path, monkeypatch):
    folder, out = trained.folder, tmp_path / "merged"
    monkeypatch.setattr("sys.argv", ["paft merge", str(folder), "--out", str(out)])
    paft.cli.merge.main()
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        ids = torch.arange(30)[None]
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["paft", "base"])
def test_rerun_repeats_a_run_exactly(method, trained, usual, capsys):
    results = trained if method == "paft" else run_training(compose_config(*usual, "method=base", "score_base=true"))
    folder = results.folder
    overrides = [f"rerun={folder / 'results.json'}", f"output_root={folder.parent}"]
    again = job(compose_config(*overrides), overrides)
    assert again.folder == folder.with_name(f"{folder.name}-rerun")
    assert again.robustness == results.robustness and again.fingerprints == results.fingerprints
    assert (folder / "per_prompt.csv").read_text() == (again.folder / "per_prompt.csv").read_text()
    assert "equal robustness" in capsys.readouterr().out


@pytest.mark.parametrize("override", ["K=8", "optim.lr=1", "dataset=piqa", "trainer.accelerator=cpu"])
def test_a_rerun_takes_no_other_settings(override, tmp_path):
    config = compose_config(f"rerun={tmp_path}")
    original = Results.model_construct(config=config.model_dump(), fingerprints=NO_COMMIT)
    with pytest.raises(InputError, match=rf"^{override}: rerun= repeats a run as it was"):
        repeated(config, original, ["rerun=results.json", "logger=wandb", override])


def test_a_rerun_takes_its_rows_from_another_place():
    """dataset=jsonl is what dataset.path= alone stands for, and what the run has anyway."""
    config = compose_config("rerun=results.json", "dataset.path=moved")
    original = Results.model_construct(config=compose_config("dataset.path=rows").model_dump(), fingerprints=NO_COMMIT)
    assert repeated(config, original, ["dataset.path=moved", "dataset=jsonl"]).dataset.path == "moved"


def test_a_rerun_on_other_rows_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("paft.data.tasks.story_facts.N_ROWS", {"train": 60, "test": 20})
    with pytest.raises(InputError, match="its data were others"):
        job(compose_config(f"rerun={trained.folder / 'results.json'}", f"output_root={tmp_path}"))


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja"])
def test_an_interrupted_run_goes_on_with_the_same_files_of_its_model_alone(
    file, tiny_overrides, tiny_llama, tmp_path, monkeypatch
):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    config = compose_config(*tiny_overrides, f"model.path={folder}")

    class Stopped(BaseException):
        pass

    def stopped(*_: object, **__: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("paft.jobs.one_run.fit", stopped)
        with pytest.raises(Stopped):
            run_training(config)
    path = folder / file
    path.write_text(path.read_text() + " " if path.is_file() else "{}")
    with pytest.raises(
        InputError, match="another base model, tokenizer, chat template or config, or by a version that did not"
    ):
        run_training(config)


def test_a_continued_run_counts_what_came_before():
    before, after = Recorder(time.perf_counter() - 60), Recorder(time.perf_counter())
    before.tokens, before.truncated, before.seconds = 1000, 3, 2.0
    after.load_state_dict(before.state_dict())
    assert (after.tokens_per_s, after.truncated) == (500, 3)
    assert after.earlier_wall_s >= 60  # what the process did before its updates is counted, too


def test_a_state_of_an_earlier_version_counts_no_draws():
    after, state = Recorder(0.0), Recorder(0.0).state_dict()
    del state["drawn"], state["repeated_tokens"]
    after.load_state_dict(state)
    assert "drawn" not in after.state_dict() and after.drawn == {}


def test_a_moved_run_keeps_its_best_checkpoint(tmp_path):
    state = SaveBest(tmp_path / "one").state_dict() | {
        "best_model_score": torch.tensor(0.7),
        "best_model_path": str(tmp_path / "one" / "best.ckpt"),
    }
    moved = SaveBest(tmp_path / "two")
    moved.load_state_dict(state)
    assert moved.best_model_path == str(tmp_path / "two" / "best.ckpt")
    assert moved.best_model_score == 0.7 and list(moved.best_k_models) == [moved.best_model_path]


def test_one_prompt_of_ones_own_needs_no_pool(tiny_overrides, tmp_path):
    for split, first in (("train", 0), ("test", 20)):
        rows = [{"q": f"Is {n} even?", "a": "no" if n % 2 else "yes"} for n in range(first, first + 20)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "unseen.jsonl").write_text(json.dumps({"text": "{q}"}) + "\n")
    own = ["dataset=jsonl", f"dataset.path={tmp_path}", "dataset.gold=a", "dataset.answer=text", "dataset.metric=exact"]
    own += [f"prompts.test={tmp_path / 'unseen.jsonl'}", "method=user", "method.prompt='{q} Say:'"]
    run = prepare(compose_config(*tiny_overrides, *own))
    assert run.inputs.validation == run.inputs.train


def test_what_is_known_before_training_is_in_the_plan_and_in_the_results(tiny_overrides, tmp_path, capsys):
    pool = shipped_pool_path("story_facts", "text", "shown", "train")
    typed = [*tiny_overrides, f"prompts.test={pool}", "T=1", "K=2"]  # three updates, two draws
    with pytest.raises(InputError, match="60 of 60 test prompts were trained on, word for word or nearly"):
        prepare(compose_config(*typed))
    results = run_training(compose_config(*typed, "prompts.allow_seen=true"))
    assert results.test_prompts_seen == Seen(copies=3, near_copies=0) and read_results(results.folder) == results
    assert [line[:38] for line in results.warnings][:1] == ["Training shows 2 templates only, which"]
    assert "BEWARE: Training shows 2 templates only" in capsys.readouterr().out
    assert "unseen" not in (results.folder / "adapter" / "README.md").read_text()


def test_method_base_trains_nothing(tiny_overrides):
    results = run_training(compose_config(*tiny_overrides, "method=base", "score_base=true"))
    assert results.training is None and not (results.folder / "adapter").exists()


def test_a_foreign_folder_is_refused(tiny_overrides, tmp_path):
    config = compose_config(*tiny_overrides)
    foreign = tmp_path / "runs" / config.run_name
    foreign.mkdir(parents=True)
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not one of ours"):
        run_training(config)
    assert [p.name for p in foreign.iterdir()] == ["notes.txt"]


def test_two_sweep_jobs_give_two_wandb_runs(tiny_overrides, tmp_path):
    run_command("train.py", "-m", "seed=0,1", "logger=wandb", *tiny_overrides).check_returncode()
    folders = sorted((tmp_path / "runs").glob("story_facts-*"))
    assert len(folders) == 2
    runs = [run for folder in folders for run in folder.glob("wandb/offline-run-*")]
    assert len(runs) == 2 and len({run.name.rsplit("-", 1)[1] for run in runs}) == 2


def test_a_continued_run_is_the_same_wandb_run(tmp_path):
    """Online; two offline runs of one id would replace each other when they are synced."""
    from paft.reporting.wandb import _id, wandb_run

    assert _id(tmp_path) == _id(tmp_path)
    ids = set()
    for _ in range(2):
        with wandb_run(compose_config("logger=wandb"), "a run", "paft", tmp_path, group=None) as logger:
            assert logger is not None
            ids.add(logger.experiment.id)
    assert len(ids | {_id(tmp_path)}) == 3


def test_one_failed_job_does_not_stop_the_sweep(tiny_overrides, tmp_path):
    done = run_command("train.py", "-m", "dataset=piqa,story_facts", "data_root=/nowhere", *tiny_overrides)
    assert done.returncode != 0 and "/nowhere/piqa/train.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "runs").glob("*/results.json"))) == 1
