"""States to go on from: whole, of this run, saved between updates when the run is told to stop."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from paft.runtime.launch import SIGNALS
from paft.training.checkpoints import SaveBest, SaveState, states, usable_state
from tests.commands import run_command
from tests.conftest import compose_config, interrupt_before_its_adapter_is_saved

ADAPTER = "adapter/adapter_model.safetensors"


def test_a_damaged_or_foreign_state_is_named_and_the_one_before_it_is_used(tmp_path, capsys):
    whole = {"run": "this", "state_dict": {"lora_A": torch.zeros(2)}}
    for update in (5, 10, 15, 20):
        torch.save(whole, tmp_path / f"update-{update:07}.ckpt")
    torch.save({**whole, "run": "another"}, tmp_path / "update-0000015.ckpt")
    newest = tmp_path / "update-0000020.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert usable_state(tmp_path, "this") == tmp_path / "update-0000010.ckpt"
    said = capsys.readouterr().out
    assert "update-0000020.ckpt is damaged" in said and "update-0000015.ckpt is of another run; going on from the one" in said
    assert usable_state(tmp_path, "a third") is None and usable_state(tmp_path / "nowhere", "this") is None


def test_a_state_with_code_in_it_is_not_run(tmp_path, capsys):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"run": "this", "state_dict": Harmful()}, tmp_path / "update-0000005.ckpt")
    assert usable_state(tmp_path, "this") is None and "is damaged (UnpicklingError)" in capsys.readouterr().out
    assert not (tmp_path / "harm").exists()


def test_a_run_goes_on_from_the_state_before_a_torn_one(tiny_overrides, tmp_path, monkeypatch, capsys):
    overrides = [*tiny_overrides, "model.lora.dropout=0.1", "trainer.checkpoint_every=1"]
    whole = run_training(compose_config(*overrides)).folder
    assert [path.stem for path in states(whole / "checkpoints")] == ["update-0000006", "update-0000005"]  # no more are kept
    config = compose_config(*overrides, f"output_root={tmp_path / 'again'}")
    interrupt_before_its_adapter_is_saved(config, monkeypatch)
    folder = tmp_path / "again" / whole.name
    states(folder / "checkpoints")[0].write_bytes(b"torn")
    run_training(config)
    assert "update-0000006.ckpt is damaged" in capsys.readouterr().out
    torch.load(states(folder / "checkpoints")[0], weights_only=True)  # the damaged one is gone
    assert (folder / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def test_a_damaged_state_never_takes_the_place_of_a_new_one(tmp_path):
    class Trainer:
        global_step = 11

        def save_checkpoint(self, path):
            path.write_bytes(b"whole")

    for update in (10, 20):  # 20 is damaged; the run went on from 10
        (tmp_path / f"update-{update:07}.ckpt").write_bytes(b"")
    SaveState(tmp_path, "this", every=1, keep=1, total_updates=10)._save(Trainer())
    assert [path.name for path in tmp_path.iterdir()] == ["update-0000011.ckpt"]


def test_a_damaged_best_checkpoint_is_one_sentence(tiny_overrides, monkeypatch):
    before = SaveBest.best

    def damaged(self):
        Path(self.best_model_path).write_bytes(b"torn")
        return before(self)

    monkeypatch.setattr(SaveBest, "best", damaged)
    with pytest.raises(InputError, match=r"best\.ckpt: this checkpoint is damaged .* delete the folder"):
        run_training(compose_config(*tiny_overrides))


def told_to_stop(number: int, folder: Path, overrides: list[str], before: str = "") -> subprocess.CompletedProcess[str]:
    """Give the command in a process that is sent a signal within its fifth update.

    Args:
        folder: where its script is written.
        before: what that process does first.
    """
    script = folder / "told.py"
    script.write_text(f"""
import os, signal, sys
import torch
torch.set_num_threads({torch.get_num_threads()})
from paft.cli.train import main
from paft.training.module import PaftModule

{before}
step = PaftModule.training_step
def told(self, batch, batch_idx):
    if self.global_step == 4:
        os.kill(os.getpid(), {int(number)})
    return step(self, batch, batch_idx)
PaftModule.training_step = told
sys.argv = ["train.py", *{overrides!r}]
main()
""")
    return run_command(str(script))


def test_a_run_that_is_told_to_stop_keeps_the_last_update_and_goes_on(tiny_overrides, tmp_path):
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} == {*SIGNALS}  # one handler for all
    small = [*tiny_overrides, "T=3", "model.lora.dropout=0.1", "trainer.checkpoint_every=1000", "validation.every=7"]
    stopped = told_to_stop(signal.SIGTERM, tmp_path, small)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "the same command resumes" in stopped.stderr and "Traceback" not in stopped.stderr
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    (state,) = states(folder / "checkpoints")
    assert torch.load(state, weights_only=True)["global_step"] == 5  # no validation was reached: the signal saved it
    assert run_training(compose_config(*small)).folder == folder
    whole = run_training(compose_config(*small, f"output_root={tmp_path / 'whole'}")).folder
    assert (folder / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tiny_overrides, tmp_path):
    default = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background inherits that it is ignored
    stopped = told_to_stop(signal.SIGINT, tmp_path, tiny_overrides, default)
    assert stopped.returncode == 130 and stopped.stderr.startswith("\nInterrupted") and "Traceback" not in stopped.stderr
    (folder,) = (tmp_path / "runs").glob("*/checkpoints")
    assert torch.load(states(folder)[0], weights_only=True)["global_step"] == 5  # the update is finished first
    assert not list((tmp_path / "runs").glob("*/results.json"))


def test_a_handler_that_was_there_before_is_called_once_the_state_is_saved(tiny_overrides, tmp_path):
    """As submitit's, which queues the job again and exits."""
    exits = "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(9))"
    stopped = told_to_stop(signal.SIGUSR2, tmp_path, [*tiny_overrides, "T=4"], exits)
    assert stopped.returncode == 9, stopped.stderr
    (folder,) = (tmp_path / "runs").glob("*/checkpoints")
    assert torch.load(states(folder)[0], weights_only=True)["global_step"] == 5
