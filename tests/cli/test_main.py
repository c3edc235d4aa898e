"""The command paft: its help, its commands, what it answers to mistakes and to the shell."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

import paft
from paft.cli import main as door
from tests.reliability.bad_input import ROOT, is_one_sentence


def answer(monkeypatch, *arguments: str) -> tuple[object, str, str]:
    """Run the command in this process; return the exit code and what it prints."""
    monkeypatch.setattr("sys.argv", ["paft", *arguments])
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            door.main()
        except SystemExit as left:
            code = left.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)], ids=str)
def test_help_names_each_command_in_one_line(arguments, monkeypatch):
    code, out, err = answer(monkeypatch, *arguments)
    assert (code, err) == (0, "")
    for name, what in door.COMMANDS.items():
        assert f"  {name:10}{what}\n" in out
    assert max(map(len, out.splitlines())) <= 128


def test_help_imports_nothing_that_takes_its_time():
    script = (
        "import sys; from paft.cli.main import main; main()\n"
        "heavy = ('torch', 'hydra', 'transformers', 'lightning', 'numpy', 'pandas', 'pydantic')\n"
        "print('imported:', [name for name in heavy if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("imported: []\n"), done.stderr


def test_a_reader_that_has_gone_ends_the_command_in_silence():
    """As `paft train --help | head` does."""
    command = [sys.executable, "-m", "paft", "train", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_version(monkeypatch):
    assert answer(monkeypatch, "--version") == (0, f"paft {paft.__version__}\n", "")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "do you mean train"),
        ("evaluat", "do you mean evaluate"),
        ("pool", "do you mean pools"),
        ("K=8", "give one of train, evaluate, compare, power, report, pools, merge first"),
        ("--cfg", "give one of train, "),
        ("predict", "predictions for rows are written by `paft evaluate adapter="),
        ("serve", "`paft merge RUN --out FOLDER` writes a model that servers load"),
        ("inspect", "open report.html in the folder of a run"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest_or_all(name, hint, monkeypatch):
    code, out, err = answer(monkeypatch, name, "job")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {name}: there is no such command; {hint}") and is_one_sentence(err)


@pytest.mark.parametrize("command", ["compare", "report", "pools", "pools show", "pools construct", "merge"])
def test_help_of_a_command_names_it_as_it_is_typed(command, monkeypatch):
    code, out, err = answer(monkeypatch, *command.split(), "--help")
    assert (code, err) == (0, "") and out.startswith(f"usage: paft {command} ")


def test_train_takes_the_overrides_of_hydra(monkeypatch):
    code, out, err = answer(monkeypatch, "train", "K=8", "optim.lr=3e-4", "--cfg", "job", "--package", "optim")
    assert (code, err) == (0, "") and "lr: 0.0003" in out
    code, out, err = answer(monkeypatch, "train", "K=8", "--help")
    assert (code, err) == (0, "") and "dataset: adapter, gsm8k" in out and "K: 8" in out


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("train k=3", "Could not override 'k'; that is K."),
        ("train dataset=piqqa", "Could not find 'dataset/piqqa'; did you mean 'piqa'? There are gsm8k, "),
        ("train K=[", "K=[: no viable alternative"),
        ("train K=${optim.k}", "K: Interpolation key 'optim.k' not found"),
        ("train ~nokey", "Could not delete from config; 'nokey' does not exist"),
        ("train K=0", "K=0: input should be greater than 0"),
        ("evaluate adapter=nowhere", "nowhere"),
        ("merge nowhere --out merged", "nowhere"),
        ("pools audit --train none.yaml", "none.yaml"),
        ("compare nowhere elsewhere", "nowhere"),
        ("report nowhere", "nowhere"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(typed, sentence, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = answer(monkeypatch, *typed.split())
    assert code == 2 and sentence in err and is_one_sentence(err), err


@pytest.mark.parametrize("command", [["train"], ["evaluate"], ["pools", "show", "--dataset", "story_facts"]], ids=" ".join)
def test_a_package_without_its_configs_says_so(command, monkeypatch, tmp_path):
    monkeypatch.setattr("paft.config.compose.CONF", str(tmp_path / "conf"))
    code, _, err = answer(monkeypatch, *command)
    assert code == 2 and err.startswith(f"error: {tmp_path / 'conf'}: the folder of configs is missing"), err
    assert is_one_sentence(err)


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("paft train dataset=pi", "dataset=piqa"),
        ("paft train K=8 optim.l", "optim.lr="),
        ("paft evaluate scor", "scoring="),
        ("paft tra", "train"),
        ("paft pools sh", ""),
        ("paft ", "train evaluate compare power report pools merge"),
    ],
)
def test_the_shell_is_answered_by_the_command_that_is_typed(line, choices, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    code, out, err = answer(monkeypatch, "-sc", "query=bash")
    assert (code, out.strip(), err) == (0, choices, "")


def test_bash_completes_once_its_script_is_installed(tmp_path):
    commands = {
        "paft": f"#!{sys.executable}\nfrom paft.cli.main import main\nmain()\n",
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }
    for name, content in commands.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    session = [
        'complete_line() { COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_CWORD=$(($# - 1)); hydra_bash_completion; '
        'echo "${COMPREPLY[@]}"; }',
        'eval "$(paft train -sc install=bash)"; complete -p paft',
        "complete_line paft train dataset=hella",
        "complete_line paft evaluate model=smollm2_135m_",
        'eval "$(python train.py -sc install=bash)"',
        "complete_line python train.py dataset=hella",
    ]
    places = {"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-c", "\n".join(session)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, timeout=900)
    rule, *completed = done.stdout.splitlines()
    assert done.returncode == 0 and rule.endswith("-F hydra_bash_completion paft"), done.stderr
    assert completed == ["dataset=hellaswag", "model=smollm2_135m_hub", "dataset=hellaswag"]
