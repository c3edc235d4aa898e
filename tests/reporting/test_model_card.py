"""The model card: metadata that the hub reads, no path of a machine, and code that runs and asks as in training."""

import json
import re
import stat
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from paft.jobs.export import export
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.model.adapter import EMBEDDED_ON_HUB
from paft.reporting.model_card import base_name
from paft.reporting.results import Results
from tests.conftest import compose_config, small_run

CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs here are made."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def overrides(tiny_llama: Path, place: Path) -> list[str]:
    """Those of a short run on a copy of the tiny Llama, whose tokenizer has a chat template."""
    folder = place / "secret-place" / "tiny-chat"
    folder.mkdir(parents=True)
    for path in tiny_llama.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return [*small_run(folder, place / "runs"), "T=1", "train_examples=8"]


@pytest.fixture(scope="module")
def results(overrides: list[str]) -> Results:
    return run_training(compose_config(*overrides))


def test_the_metadata_are_what_the_hub_reads_and_name_no_path(results, place):
    path = results.folder / "adapter" / "README.md"
    card, robust = ModelCard.load(path), results.robustness
    assert robust is not None
    assert (card.data.base_model, card.data.library_name) == ("tiny-chat", "peft")
    figures = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert figures == {
        "mean accuracy over unseen prompts": round(robust.mean, 4),
        "accuracy on the worst unseen prompt": round(robust.min, 4),
        "std of the accuracy over unseen prompts": round(robust.std, 4),
    }
    assert {result.dataset_type for result in card.data.eval_results} == {"story_facts"}
    text = path.read_text()
    assert "secret-place" not in text and str(place) not in text
    assert str(ModelCard(text)) == str(card)  # it survives reading and writing


def test_a_hub_id_keeps_its_name_and_a_moved_folder_none_of_its_path():
    names = {
        path: base_name(compose_config(f"model.path={path}").model)
        for path in ("Qwen/Qwen2.5-7B", "/home/me/models/mine", "null")
    }
    assert list(names.values()) == ["Qwen/Qwen2.5-7B", "mine", "HuggingFaceTB/SmolLM2-135M-Instruct"]


@pytest.mark.parametrize(
    "chat", [[], ["model.chat_template=true", "model.system_prompt='Say it short.'"]], ids=["plain", "chat"]
)
def test_the_code_runs_and_reads_the_tokens_of_training(results, overrides, chat, capsys):
    config = compose_config(*overrides, *chat)
    folder = (run_training(config) if chat else results).folder / "adapter"
    text = (folder / "README.md").read_text()
    run = prepare(config)
    template, example = run.inputs.train.templates[0], run.inputs.examples.test[0]
    assert template.text in text
    (code,) = re.findall(r"```python\n(.*?)\n```", text, flags=re.DOTALL)
    assert ("apply_chat_template" in code) == bool(chat)
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder)).replace("PATH/TO/tiny-chat", str(config.model.path))
    for field, value in example.fields.items():
        code = code.replace(f'"{field}": "..."', f'"{field}": {value!r}')
    capsys.readouterr()
    found: dict = {}
    exec(code, found)
    assert capsys.readouterr().out.endswith("\n")
    assert found["inputs"]["input_ids"][0].tolist() == run.encoder.scoring(template, example).context


def test_others_can_read_the_adapter_and_the_merged_model(results, tmp_path):
    adapter = results.folder / "adapter"
    export(adapter, tmp_path / "merged")
    for folder in (adapter, tmp_path / "merged"):
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
            path.name: 0o644 for path in folder.iterdir()
        }


def test_no_saved_file_holds_a_path_of_this_machine(overrides, place, monkeypatch):
    """Of the embedded model, whose folder in the cache nobody named."""
    monkeypatch.setattr("paft.model.converted.smollm2_folder", lambda: place / "secret-place" / "tiny-chat")
    config = compose_config(*overrides, "model.path=null", "logger=wandb", "trainer.checkpoint_every=1")
    run, merged = run_training(config).folder, place / "merged"
    export(run / "adapter", merged)
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == EMBEDDED_ON_HUB

    def holding(text: str, *folders: Path) -> list[str]:
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 3
        return [path.name for path in files if text.encode() in path.read_bytes()]

    assert holding("secret-place", run, merged) == []
    assert holding(str(place), run / "adapter", run / "checkpoints", run / "prompts", run / "log", merged) == []
    assert "secret-place" not in (run / "run.json").read_text()
