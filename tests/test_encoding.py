"""Files, subprocesses and the terminal: nothing depends on the locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.bad_input import ROOT

SOURCES = [*ROOT.glob("*.py"), *(ROOT / "paft").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
POOL = "answer: text\nprompts:\n  - {id: 提示一, text: '{story} {question} {A} {B} {C} {D} 答：'}\n"


def in_locale_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding the locale has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("archive", "os"):
        return False  # a zip file and a file descriptor have bytes alone
    given = {keyword.arg for keyword in call.keywords}
    if name in ("run", "Popen", "check_output"):
        return bool(given & {"text", "universal_newlines"}) and "encoding" not in given
    if name not in ("open", "read_text", "write_text", "NamedTemporaryFile", "TemporaryFile") or "encoding" in given:
        return False
    words = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return not any("b" in mode and set(mode) <= set("rwxab+") for mode in modes)


def test_every_text_file_and_every_answer_of_a_process_is_utf_8():
    found = []
    for path in SOURCES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        found += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if in_locale_encoding(call)]
    assert len(SOURCES) > 100 and found == []


def test_the_guard_guards():
    bad = ["open(p)", "p.read_text()", "p.write_text(t)", "p.open('w')", "subprocess.run(c, text=True)", "open(p, mode='r')"]
    good = ["open(p, 'rb')", "p.open('wb')", "p.open(encoding='utf-8')", "subprocess.run(c)", "os.open(p, os.O_RDONLY)"]
    found = [in_locale_encoding(ast.parse(line).body[0].value) for line in [*bad, *good]]
    assert found == [True] * len(bad) + [False] * len(good)


def in_c(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run a command where nothing but ASCII can be printed, without torch."""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONIOENCODING", None)
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, timeout=600)


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("pools show --dataset story_facts --pool pool.yaml", 0, rb"\u63d0\u793a\u4e00"),
        ("pools audit --train pool.yaml --test pool.yaml", 1, rb"\u63d0\u793a\u4e00"),
        ("train prompts.train=pool.yaml train_prompts=2", 2, b"train_prompts=2: the training pool has 1 prompts."),
        ("train rerun=提示.json", 2, b"the locale of this terminal cannot read this; give the command with PYTHONUTF8=1.\n"),
    ],
)
def test_a_command_survives_any_locale(typed, code, said, tmp_path):
    (tmp_path / "pool.yaml").write_text(POOL, encoding="utf-8")
    done = in_c(["-m", "paft", *typed.split()], tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr and b"Traceback" not in done.stderr
