"""How far a task is: a bar in a terminal, plain lines elsewhere."""

import io
import sys

from paft.runtime import progress
from paft.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_there_is_no_terminal_a_plain_line_comes_each_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("scoring", "renderings", 4000) as shown:
        for second in range(1, 181):
            now[0] = second
            shown.note = "accuracy 50.0"
            shown.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 600 of 4,000 renderings (15%), accuracy 50.0, 05:40 left",
        "scoring: 1,200 of 4,000 renderings (30%), accuracy 50.0, 04:40 left",
        "scoring: 1,800 of 4,000 renderings (45%), accuracy 50.0, 03:40 left",
    ]


def test_what_earlier_processes_did_does_not_count_for_the_speed(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress("training", "updates", 200, done=80)
    now[0] = 60
    shown.update(60)
    assert capsys.readouterr().err == "training: 140 of 200 updates (70%), 01:00 left\n"
    now[0] = 120
    shown.update(1, left_s=100)
    assert capsys.readouterr().err == "training: 141 of 200 updates (70%), 01:40 left\n"


def test_in_a_terminal_there_is_a_bar_and_a_silent_one_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("training", "updates", 10, done=4) as shown:
        shown.note = "loss 1.000"
        shown.update(6, left_s=65)
    bar = sys.stderr.getvalue()
    assert " 4/10 [" in bar and " 10/10 [" in bar and "loss 1.000, 01:05 left" in bar and "\n" in bar
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("training", "updates", 10, silent=True) as shown:
        shown.update(10)
    assert sys.stderr.getvalue() == ""
