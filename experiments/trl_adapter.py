"""An adapter that TRL has trained, measured as it is: python -m experiments.trl_adapter

TRL's own command (`pip install trl`) trains a stock LoRA adapter on 400 rows of story_facts under one prompt. `paft evaluate
adapter=FOLDER` finds its base model and its tokenizer by itself; the base model alone is measured beside it.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.data.inputs import load_inputs
from paft.data.render import render, right_answer
from paft.model.converted import loadable
from paft.reporting.sweep import report
from paft.runtime.errors import InputError

KEPT = Path("experiments/results/trl_adapter")

_LORA = "--use_peft --lora_r 8 --lora_alpha 16 --lora_target_modules q_proj v_proj"
_TRAINING = "--learning_rate 2e-3 --num_train_epochs 1 --per_device_train_batch_size 8 --max_length 512"
_MACHINE = "--use_cpu --bf16 False --gradient_checkpointing False --save_strategy no --report_to none"
_MEASURED = "dataset=story_facts eval_prompts=20 eval_examples=50 output_root=runs"


def main() -> None:
    """Train, measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.trl_adapter", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/trl_adapter"), help="where the adapter and the runs go")
    parser.add_argument("--out", type=Path, default=KEPT, help="where the page goes")
    arguments = parser.parse_args()
    trl, work = shutil.which("trl"), arguments.work
    if trl is None:
        raise InputError("trl: there is no such command; pip install trl.")
    write_rows(work / "rows" / "train.jsonl")
    base = loadable(None)
    commands = [
        f"trl sft --model_name_or_path {base} --dataset_name rows --output_dir my_lora {_LORA} {_TRAINING} {_MACHINE}",
        f"paft evaluate model=smollm2_135m {_MEASURED}",
        f"paft evaluate adapter=my_lora {_MEASURED}",
    ]
    for command, leaves in zip(commands, ("my_lora/adapter_config.json", "", ""), strict=True):
        if not leaves or not (work / leaves).is_file():
            run(command, work)
    shown = [command.replace(base, "SMOLLM2_135M") for command in commands]
    version = json.loads(run(f"{Path(trl).parent / 'python'} -c 'import json, trl; print(json.dumps(trl.__version__))'", work))
    notes = [
        f"TRL {version} trained the adapter with its own command on 400 rows of story_facts under one prompt; nothing of this "
        "project ran in it but the rows' rendering.",
        "One seed: a demonstration that the way works, no comparison of trainers.",
        *(f"`{command}`" for command in shown),
    ]
    report([work / "runs"], arguments.out, keep=True, notes=notes)


def write_rows(path: Path) -> None:
    """Write the training rows under the shipped plain prompt, in TRL's form of prompt and completion."""
    inputs = load_inputs(compose_training(["scale=cpu", "dataset=story_facts", "method=user"]))
    assert inputs.train is not None
    (template,) = inputs.train.templates
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for example in inputs.examples.train:
            answer = right_answer(template, example, inputs.train.answer)
            file.write(json.dumps({"prompt": render(template, example), "completion": f" {answer}"}) + "\n")


def run(command: str, folder: Path) -> str:
    """Run a command in a folder, and return what it prints; raises InputError with its last lines if it fails."""
    words = shlex.split(command)
    if words[0] == "paft":
        words[:1] = [sys.executable, "-m", "paft"]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | ({"PYTHONPATH": root} if "paft" in words else {})
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise InputError(f"{command}: this failed: {done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    run_plain(main)
