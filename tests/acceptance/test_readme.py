"""Every command on the first page runs: as it stands there, at a small size, or in another test that the table names."""

import csv
import json
import os
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")

# Commands that other tests run, or that cannot run here.
ELSEWHERE = {
    "make demo": "tests/acceptance/test_smollm2.py runs its script at a small size; the whole of it takes ten minutes",
    "make test": "what CI runs",
    "pip install .": "tests/acceptance/test_wheel.py installs the wheel into an empty environment",
    "conda env create -f environment.yml": "needs conda, the network and an NVIDIA GPU",
}

# How a command is made small: (what stands on the page, what stands here instead), and what is typed besides.
TINY = "model.path={tiny} model.dtype=fp32 trainer.accelerator=cpu trainer.progress=false"
AS_IT_IS = ("", "")
SMALL = {
    "paft evaluate model=smollm2_135m": (AS_IT_IS, TINY),
    "paft train dataset.path=rows": (AS_IT_IS, TINY),
    "paft compare runs/*-paft-* runs/base/*": (AS_IT_IS, ""),
    "paft merge runs/*-paft-* --out my_model --gguf q8_0": (AS_IT_IS, ""),
    'paft evaluate adapter="$(echo runs/*-paft-*)/adapter"': (AS_IT_IS, "trainer.accelerator=cpu trainer.progress=false"),
    "paft train -m experiment=table1 scale=cpu": (("scale=cpu", "scale=smoke method=base,user,paft seed=0"), TINY),
    "paft report outputs --out report": (AS_IT_IS, ""),
    "python -m experiments.paper outputs --out paper": (AS_IT_IS, ""),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def commands() -> Iterator[str]:
    """The commands of the page, each in one line, without comments."""
    for line in re.sub(r" *\\\n *", " ", "".join(blocks("bash"))).splitlines():
        if command := re.sub(r"(^| +)# .*", "", line).strip():
            yield command


def small(command: str) -> tuple[tuple[str, str], str] | None:
    """How a command is made small; None for one that is not in the table."""
    return next((how for begin, how in SMALL.items() if command.startswith(begin)), None)


def test_every_command_is_run_here_or_in_a_test_that_is_named():
    unknown = [command for command in commands() if command not in ELSEWHERE and small(command) is None]
    assert not unknown, "run these in SMALL, or say in ELSEWHERE which test runs them"
    assert all(any(command.startswith(begin) for command in commands()) for begin in (*SMALL, *ELSEWHERE)), "not on the page"
    named = re.findall(r"tests/\S+\.py", " ".join(ELSEWHERE.values()))
    assert all((ROOT / path).is_file() for path in named)


def row(number: int) -> dict[str, str]:
    things = ("vase", "cup", "plate", "jar")
    said = "broke" if number % 2 else "is late"
    return {"text": f"The {things[number % 4]} of order {number} {said}.", "label": "returns" if number % 2 else "shipping"}


PROMPTS = {
    "mine": ("Customer: {text}\nTeam:", "{text} This is for"),
    "unseen": ("Which team?\n{text}\nAnswer:", "Message: {text}\nIt goes to"),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with rows and prompts as the page names them, and the commands paft and python."""
    (tmp_path / "rows").mkdir()
    for name, numbers in (("rows/train", range(16)), ("rows/test", range(16, 20)), ("new", range(20, 23))):
        rows = [row(number) for number in numbers]
        names = ["text"] if name == "new" else ["text", "label"]
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    for name, texts in PROMPTS.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"prompts": [{"text": text} for text in texts]}))
    (tmp_path / "bin").mkdir()
    for name, arguments in (("paft", "-m paft"), ("python", "")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    return tmp_path


def run(workspace: Path, command: list[str]) -> str:
    """Run a command in the workspace; return what it prints."""
    path = f"{workspace / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_commands_run_in_their_order(workspace, tiny_llama):
    printed = {}
    for command in commands():
        if (how := small(command)) is None:
            continue
        (page, here), besides = how
        typed = f"{command.replace(page, here)} {besides.format(tiny=tiny_llama)}".strip()
        printed[command] = run(workspace, ["bash", "-c", typed])
    assert [len(list(workspace.glob(f"runs/{side}*/results.json"))) for side in ("base/", "*-base-", "*-paft-")] == [1, 1, 1]
    assert "Verdict: " in next(text for command, text in printed.items() if command.startswith("paft train"))
    assert "prompts x 4 examples" in next(text for command, text in printed.items() if "compare" in command)
    assert AutoModelForCausalLM.from_pretrained(workspace / "my_model").config.hidden_size == 32
    predictions = [json.loads(line) for line in (workspace / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 3 and all(line["prediction"] in ("returns", "shipping") for line in predictions)
    assert len(list(workspace.glob("outputs/story_facts-*/results.json"))) == 3
    for folder in ("report", "paper"):
        assert "story_facts" in (workspace / folder / "README.md").read_text()


def test_the_python_api_of_the_page_runs(workspace, tiny_llama):
    (code,) = (block for block in blocks("python") if "import paft" in block)
    tiny = {"model": {"path": str(tiny_llama), "dtype": "fp32"}, "trainer": {"accelerator": "cpu", "progress": False}}
    code = code.replace("**task)", f"**task, **{tiny!r})")
    assert code.count(str(tiny_llama)) == 2
    printed = run(workspace, [sys.executable, "-c", code])
    assert (workspace / "predictions.jsonl").is_file() and printed.strip()


def test_the_method_of_the_page_trains(tiny_llama, capsys):
    """Algorithm 1 as it stands there, with the smallest helpers that it names."""
    (code,) = (block for block in blocks("python") if "training_prompts" in block)
    torch.manual_seed(0)
    random.seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama), peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    )
    losses: list[float] = []

    def loss_on_answers(model, batch):
        loss = 0.0
        for prompt, answer in batch:
            context, target = (tokenizer(text, return_tensors="pt").input_ids for text in (prompt, f" {answer}"))
            labels = torch.cat([torch.full_like(context, -100), target], dim=1)
            loss = loss + model(input_ids=torch.cat([context, target], dim=1), labels=labels).loss / len(batch)
        losses.append(loss.item())
        return loss

    def answer(model, prompt):
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        return max("AB", key=lambda letter: logits[tokenizer(f" {letter}").input_ids[0]].item())

    outcomes = ("It flew.", "It broke.")
    rows = [
        {"premise": f"Cup {n} fell.", "A": outcomes[n % 2], "B": outcomes[1 - n % 2], "answer": "BA"[n % 2]} for n in range(24)
    ]
    names = {
        "T": 4,
        "K": 2,
        "random": random,
        "mean": statistics.mean,
        "pstdev": statistics.pstdev,
        "model": model,
        "optimizer": torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2),
        "train_rows": rows[:16],
        "test_rows": rows[16:],
        "training_prompts": ("{premise}\nA. {A}\nB. {B}\nAnswer:", "{premise} (A) {A} (B) {B} Letter:"),
        "unseen_prompts": ("A: {A}\nB: {B}\n{premise}\nAnswer:", "{premise}\n{A} (A) or {B} (B)? It is"),
        "shuffled_batches": lambda rows: [random.sample(rows, len(rows))[i : i + 4] for i in range(0, len(rows), 4)],
        "loss_on_answers": loss_on_answers,
        "answer": answer,
    }
    exec(code, names)
    assert len(losses) == 16 and sum(losses[-4:]) < sum(losses[:4])
    mean, std, worst = (float(number) for number in capsys.readouterr().out.split())
    assert 0 <= worst <= mean <= 1 and std >= 0
