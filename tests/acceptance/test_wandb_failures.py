"""W&B that cannot be reached, refuses, hangs or dies: a run ends with its results, says what W&B misses, and sends it later."""

import csv
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import wandb

import paft.reporting.wandb as ours
from paft.config.schema import TrainConfig
from paft.reporting.logged import earlier_updates
from tests.conftest import compose_config
from tests.reporting.fake_wandb import HANG, KEY, FakeWandb, fake_wandb

ROOT = Path(__file__).parents[2]

# Short is only what is to be waited for in vain, so that a slow machine changes nothing.
SHORT = {"_UPLOAD_S": 1, "_FINISH_S": 1}
LONG = dict.fromkeys(("_INIT_S", "_UPLOAD_S", "_FINISH_S", "_ANSWER_S"), 300)
# What a server must answer for a run to begin.
BEGIN = {"RunResumeStatus", "UpsertBucket"}


@pytest.fixture
def config(tiny_overrides, monkeypatch) -> TrainConfig:
    """A run of seconds with W&B online."""
    wandb.teardown()  # the service that another test has started keeps the server of that test
    shorten(monkeypatch, **LONG)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return compose_config(*tiny_overrides, "logger=wandb")


def shorten(monkeypatch, **limits: int) -> None:
    for name, seconds in limits.items():
        monkeypatch.setattr(ours, name, seconds)


def run(config: TrainConfig, url: str, monkeypatch) -> Path:
    from paft.jobs.train import run_training

    monkeypatch.setenv("WANDB_BASE_URL", url)
    return run_training(config).folder


def check_results(folder: Path) -> None:
    assert (folder / "results.json").is_file() and len(list(csv.DictReader((folder / "per_prompt.csv").open(newline="")))) == 3
    rows = list(csv.DictReader((folder / "log/version_0/metrics.csv").open()))
    assert [row["step"] for row in rows if row["loss"]] == ["0", "1", "2", "3", "4", "5"]


def check_sent(server: FakeWandb, folder: Path) -> None:
    assert (folder / "wandb_logged").is_file()
    assert [row["trainer/global_step"] for row in server.history if "loss" in row] == [0, 1, 2, 3, 4, 5]
    assert "robustness/mean" in server.summary and "per_prompt" in server.summary
    assert {f"{folder.name}-{kind}" for kind in ("adapter", "prompts")} <= set(server.artifacts)


def service() -> psutil.Process:
    (core,) = (child for child in psutil.Process().children() if child.name() == "wandb-core" and child.status() != "zombie")
    return core


def test_a_server_that_answers_has_it_all_and_is_sent_it_once(config, monkeypatch, capfd):
    with fake_wandb() as server:
        folder = run(config, server.url, monkeypatch)
        check_results(folder)
        check_sent(server, folder)
        before = len(server.asked)
        run(config, server.url, monkeypatch)
    assert len(server.asked) == before
    shown = capfd.readouterr()
    assert "W&B" not in shown.out
    leaks = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not leaks and KEY not in shown.out + shown.err


# How the server answers: before the run has begun, and after.
@pytest.mark.parametrize(
    ("begin", "then", "said"),
    [
        (401, 401, "W&B could not be reached (CommError"),
        (HANG, HANG, "W&B could not be reached (CommError"),
        (200, 403, "W&B misses a part of"),
        (200, 429, "W&B misses a part of"),
        (200, 500, "W&B misses a part of"),
        (200, HANG, "W&B misses a part of"),
    ],
)
def test_a_server_that_fails_costs_nothing_and_is_sent_the_run_later(begin, then, said, config, monkeypatch, capfd):
    with monkeypatch.context() as limits, fake_wandb(lambda operation: begin if operation in BEGIN else then) as server:
        shorten(limits, **({"_INIT_S": 1} if begin == HANG else SHORT))
        folder = run(config, server.url, monkeypatch)
        check_results(folder)
        out = capfd.readouterr()
        (sentence,) = (line for line in out.out.splitlines() if line.startswith("W&B"))
        assert sentence.startswith(said) and KEY not in out.out + out.err
        assert not (folder / "wandb_logged").exists()
    with fake_wandb() as server:
        run(config, server.url, monkeypatch)
        check_sent(server, folder)


def test_without_a_server_the_run_is_logged_offline_and_sent_later(config, monkeypatch, capfd, nobody):
    with monkeypatch.context() as limits:
        shorten(limits, _INIT_S=1)
        folder = run(config, nobody, monkeypatch)
        check_results(folder)
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1
        run(config, nobody, monkeypatch)  # in vain
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1 and not (folder / "wandb_logged").exists()
    out = capfd.readouterr().out
    assert out.count("W&B could not be reached") == out.count("W&B gets nothing of") == 1
    with fake_wandb() as server:
        run(config, server.url, monkeypatch)
        check_sent(server, folder)


def test_a_file_stream_that_is_refused_is_not_taken_for_a_run_that_arrived(config, monkeypatch, capfd):
    log_results = ours.log_results

    def log_and_wait_less(*arguments) -> None:
        log_results(*arguments)
        shorten(monkeypatch, _ANSWER_S=1)

    with fake_wandb(lambda operation: 403 if operation == "file_stream" else 200) as server:
        monkeypatch.setattr(ours, "log_results", log_and_wait_less)
        folder = run(config, server.url, monkeypatch)
        assert server.artifacts and not (folder / "wandb_logged").exists()
        assert "W&B misses a part of" in capfd.readouterr().out
        monkeypatch.setattr(ours, "log_results", log_results)
        shorten(monkeypatch, **LONG)
        server.status = lambda _: 200
        run(config, server.url, monkeypatch)
        check_sent(server, folder)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_service_that_dies_or_hangs_costs_no_update(blow, config, monkeypatch, capfd):
    log = ours.RunLogger.log_metrics

    def log_and_strike(logger, metrics, step=None):
        if step == 2 and "loss" in metrics:
            service().send_signal(blow)
            shorten(limits, **SHORT, _ANSWER_S=1)
        log(logger, metrics, step)

    with fake_wandb() as server:
        with monkeypatch.context() as limits:
            limits.setattr(ours.RunLogger, "log_metrics", log_and_strike)
            folder = run(config, server.url, monkeypatch)
        check_results(folder)
        assert "W&B misses a part of" in capfd.readouterr().out and not (folder / "wandb_logged").exists()
        run(config, server.url, monkeypatch)
        check_sent(server, folder)


@pytest.mark.parametrize("where", ["wandb.init", "wandb.Artifact.add_dir"])
def test_a_full_disk_of_wandbs_costs_no_result(where, config, monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with fake_wandb() as server:
        with monkeypatch.context() as disk:
            disk.setattr(where, full)
            folder = run(config, server.url, monkeypatch)
        check_results(folder)
        assert "No space left on device" in capfd.readouterr().out and not (folder / "wandb_logged").exists()
        run(config, server.url, monkeypatch)
        check_sent(server, folder)


def test_updates_are_handed_over_while_the_network_hangs(config, monkeypatch, tmp_path):
    monkeypatch.setattr(ours, "_FINISH_S", 1)
    with fake_wandb(lambda operation: 200 if operation in BEGIN else HANG) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with ours.wandb_run(config, "n", "paft", tmp_path, None) as logger:
            for step in range(2000):
                logger.log_metrics({"loss": 1.0}, step)
            assert logger.failed is None


def test_the_command_ends_though_the_network_hangs(tiny_overrides):
    limits = "".join(f"ours.{name} = {seconds}\n" for name, seconds in SHORT.items())
    code = f"import runpy\nimport paft.reporting.wandb as ours\n{limits}runpy.run_path('train.py', run_name='__main__')"
    with fake_wandb(lambda operation: 200 if operation in BEGIN else HANG) as server:
        environment = os.environ | {"WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        done = subprocess.run(
            [sys.executable, "-c", code, "logger=wandb", *tiny_overrides],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "W&B misses a part of" in done.stdout and KEY not in done.stdout + done.stderr
    (folder,) = Path(next(o.split("=")[1] for o in tiny_overrides if o.startswith("output_root"))).glob("*/")
    check_results(folder)


def test_a_log_that_a_kill_cut_off_is_sent_as_far_as_it_is_whole(tmp_path):
    for version, lines in enumerate(["0,3.5,\n1,2.5,\n1,,0.5\n2,1.5,\n3,", "2,1.5,\n3,1.25,\n"]):
        log = tmp_path / f"log/version_{version}/metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("step,loss,validation/mean\n" + lines)
    losses = [(0, {"loss": 3.5}), (1, {"loss": 2.5}), (1, {"validation/mean": 0.5}), (2, {"loss": 1.5}), (3, {"loss": 1.25})]
    assert earlier_updates(tmp_path) == losses


def test_a_thread_of_wandb_that_dies_with_its_service_says_nothing_and_others_do(capsys, monkeypatch):
    shorten(monkeypatch, **LONG)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # as outside of pytest
    ended = threading.Event()

    def send() -> None:
        ended.wait()
        raise ConnectionResetError

    def start(name: str) -> threading.Thread:
        thread = threading.Thread(target=send, name=name)
        thread.start()
        return thread

    threads = [start("wandb-ServiceFinalizer"), start("a user's")]
    teardown = wandb.teardown
    # It dies while the service is ended, or with a service that is killed.
    monkeypatch.setattr(wandb, "teardown", lambda: (ended.set(), [thread.join() for thread in threads], teardown()))
    ours.end_service()
    said = capsys.readouterr().err
    assert "wandb-" not in said and said.count("Traceback") == 1 and "a user's" in said
    later = start("wandb-ServiceFinalizer")  # of a run that the caller starts afterwards
    later.join()
    assert "wandb-ServiceFinalizer" in capsys.readouterr().err
