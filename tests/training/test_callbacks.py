"""The record of a run's updates, and how far it is: complete, in order, and read back from the device rarely."""

import csv
import math
from pathlib import Path

import pytest
import torch

from paft.jobs.train import run_training
from paft.runtime import progress
from paft.runtime.progress import Progress
from paft.training import callbacks, checkpoints
from paft.training.callbacks import Recorder
from paft.training.checkpoints import SaveState
from paft.training.module import PaftModule
from tests.conftest import Killed, compose_config, die_in

NAMES = ("loss", "grad_norm", "lr", "template")
STEP = PaftModule.training_step


def logs(folder: Path) -> list[list[dict[str, str]]]:
    """The rows of updates, by process."""
    files = sorted(folder.glob("log/version_*/metrics.csv"))
    return [[row for row in csv.DictReader(path.open()) if row["loss"]] for path in files]


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """No reading back because of the clock."""
    monkeypatch.setattr(callbacks, "_LONGEST_WAIT_S", 1e9)


@pytest.fixture
def figures(monkeypatch) -> list[dict[str, float]]:
    """What each update of this process computed, in a buffer that the next one overwrites, as a CUDA graph's."""
    computed = []
    buffer = torch.zeros(2)

    def step(self, batch, batch_idx):
        figures = STEP(self, batch, batch_idx)
        computed.append({name: float(figures[name]) for name in NAMES})
        buffer.copy_(torch.stack((figures["loss"], figures["grad_norm"])))
        return figures | {"loss": buffer[0], "grad_norm": buffer[1]}

    monkeypatch.setattr(PaftModule, "training_step", step)
    return computed


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """How many updates were read back at a time."""
    rows = []
    read_back = Recorder.read_back

    def counted(self):
        rows.extend([len(self._rows)] if self._rows else [])
        read_back(self)

    monkeypatch.setattr(Recorder, "read_back", counted)
    return rows


def test_every_update_is_in_the_log_with_its_own_step_and_is_read_back_with_others(tiny_overrides, figures, reads):
    folder = run_training(compose_config(*tiny_overrides)).folder
    (rows,) = logs(folder)
    assert [{name: float(row[name]) for name in NAMES} for row in rows] == figures
    assert [(row["step"], row["epoch"]) for row in rows] == [(str(i), str(i // 3)) for i in range(6)]
    assert all(float(row["tokens_per_s"]) > 0 for row in rows)
    assert reads == [3, 3]  # before each validation


def test_so_many_updates_are_read_back_at_once_and_no_more(tiny_overrides, monkeypatch, reads):
    monkeypatch.setattr(callbacks, "_MOST_WAITING", 2)
    (rows,) = logs(run_training(compose_config(*tiny_overrides)).folder)
    assert reads == [2, 1, 2, 1] and len(rows) == 6


def test_what_was_computed_before_a_failure_is_in_the_log(tiny_overrides, tmp_path, monkeypatch):
    die_in(2, monkeypatch)
    config = compose_config(*tiny_overrides)
    with pytest.raises(Killed):
        run_training(config)
    ((first, second),) = logs(tmp_path / "runs" / config.run_name)
    assert (first["step"], second["step"]) == ("0", "1")


def test_a_killed_run_and_its_continuation_log_what_a_whole_run_logs(tiny_overrides, tmp_path, monkeypatch):
    """A kill takes what was not read back; but a state is saved only when all before it was."""
    overrides = [*tiny_overrides, "trainer.checkpoint_every=2", "validation.every=6", "model.lora.dropout=0.1"]
    (whole,) = logs(run_training(compose_config(*overrides, f"output_root={tmp_path / 'whole'}")).folder)
    with monkeypatch.context() as patch:
        die_in(5, patch)
        patch.setattr(Recorder, "on_exception", lambda *_: None)
        with pytest.raises(Killed):
            run_training(compose_config(*overrides))
    folder = run_training(compose_config(*overrides)).folder
    before, after = logs(folder)
    assert [row["step"] for row in before] == ["0", "1", "2", "3"] and [row["step"] for row in after] == ["4", "5"]
    for row, undisturbed in zip([*before, *after], whole, strict=True):
        assert [row[name] for name in NAMES] == [undisturbed[name] for name in NAMES]


def test_one_bar_counts_the_updates_of_all_epochs_and_begins_where_a_resumed_run_does(tiny_overrides, monkeypatch, capsys):
    bars = []

    class Noted(Progress):
        def __init__(self, what, unit, total, done=0, silent=False):
            super().__init__(what, unit, total, done, silent)
            self.first, self.lefts = done, []
            bars.append(self)

        def update(self, n, left_s=None):
            self.lefts.append(left_s)
            super().update(n, left_s)

    monkeypatch.setattr(callbacks, "Progress", Noted)
    monkeypatch.setattr(progress, "_LINE_S", math.inf)  # the machine may be busy for more than a minute
    monkeypatch.setattr(callbacks, "_MOST_WAITING", 1)
    monkeypatch.setattr(callbacks, "_WARM_UP", 1)
    monkeypatch.setattr(callbacks, "_MEASURED", 1)
    with monkeypatch.context() as patch:
        die_in(4, patch)
        with pytest.raises(Killed):
            run_training(compose_config(*tiny_overrides, "trainer.checkpoint_every=2", "trainer.progress=true"))
    run_training(compose_config(*tiny_overrides, "trainer.checkpoint_every=2", "trainer.progress=true"))
    assert [(bar.total, bar.first, bar.done) for bar in bars] == [(6, 0, 4), (6, 4, 6)]
    assert all(left > 0 for bar in bars for left in bar.lefts)  # with scoring, so even after the last update
    out, err = capsys.readouterr()
    assert out.count("  time      about ") == 2 and "of scoring 18 renderings" in out
    assert err == ""  # no terminal


def test_by_default_a_state_is_saved_when_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    saver = SaveState(tmp_path, "this", every=None, keep=1, total_updates=10)
    saver._saved_at, saver._saving_s = 100.0, 1.0
    now[0] = 119.0
    assert not saver._is_due(50)
    now[0] = 121.0
    assert saver._is_due(50) and not saver._is_due(51)
    now[0] = 100.0
    saver.every = 10  # what was asked for is done
    assert saver._is_due(10)


def test_ranks_ask_each_other_for_signals_every_half_second(tmp_path, monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(checkpoints.ranks, "n_ranks", lambda: 2)
    saver = SaveState(tmp_path, "this", every=None, keep=1, total_updates=10)
    other = [0, 0.0]  # its signal, and the seconds of its updates

    def gather(value):
        asked.append(update)
        return [value, tuple(other)]

    monkeypatch.setattr(checkpoints.ranks, "gather", gather)
    other[1] = 0.1
    for update in range(1, 12):
        now[0] += 0.05
        assert saver._signal_on_any_rank(update) == 0
    assert asked == [1, 6, 11]  # five updates of the slower rank are half a second
    other[:] = [15, 2.0]
    heard = [update for update in range(12, 20) if saver._signal_on_any_rank(update)]
    assert heard[0] == 16 and len(heard) == 4  # and now each update
    assert saver._signal_on_any_rank() == 15
