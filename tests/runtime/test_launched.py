"""The place of a rank, from the variables of torchrun, srun or a hand; what is wrong with them is one sentence."""

import json
import os
import socket
import subprocess
import sys

import pytest

from paft.cli import hydra_app
from paft.cli.hydra_app import check_launcher
from paft.config.schema import TrainConfig
from paft.runtime import launched, ranks
from paft.runtime.errors import InputError
from tests.reliability.strike import ROOT

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TORCHRUN = dict(zip(NAMES, ("3", "4", "1", "2", "10.0.0.1", "29500"), strict=True))
SRUN = {
    "SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "3", "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NODELIST": "gpu[07-09,12]",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; those of a launcher that are not given, and what is set on the way, are gone afterwards."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in NAMES and not k.startswith("SLURM")})
    return os.environ.update


def test_one_process_is_rank_0_of_1(environment):
    launched.find_place()
    assert (ranks.rank(), ranks.n_ranks(), ranks.local_rank(), ranks.n_local_ranks()) == (0, 1, 0, 1)
    assert launched.devices_of(4) == 4 and launched.reports()


def test_torchrun_says_the_place(environment):
    environment(TORCHRUN)
    launched.find_place()
    assert (ranks.rank(), ranks.n_ranks(), ranks.local_rank(), ranks.n_local_ranks()) == (3, 4, 1, 2)
    assert launched.devices_of(1) == launched.devices_of(4) == 4
    with pytest.raises(InputError, match=r"trainer\.devices=2: the launcher has started 4 ranks; leave trainer\.devices out\."):
        launched.devices_of(2)


def test_srun_says_the_place(environment):
    environment(SRUN)
    launched.find_place()
    assert {name: os.environ[name] for name in NAMES} == dict(zip(NAMES, ("6", "7", "0", "1", "gpu07", "19567"), strict=True))


def test_what_the_user_sets_goes_before_what_srun_says(environment):
    environment(SRUN | {"MASTER_ADDR": "head", "MASTER_PORT": "1"})
    launched.find_place()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("head", "1")


@pytest.mark.parametrize("changes", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "7"}])
def test_a_job_of_one_task_and_a_batch_script_are_one_rank(changes, environment):
    environment({name: value for name, value in (SRUN | changes).items() if value is not None})
    launched.find_place()
    assert ranks.n_ranks() == 1


def test_a_shell_that_srun_has_opened_is_one_rank(environment, monkeypatch):
    environment(SRUN)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    launched.find_place()
    assert ranks.n_ranks() == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set, but RANK=0 is: start the ranks with torchrun or srun"),
        ({"WORLD_SIZE": "2"}, "RANK is not set, but WORLD_SIZE=2 is"),
        ({**TORCHRUN, "MASTER_ADDR": None}, "MASTER_ADDR is not set, but RANK=3 and WORLD_SIZE=4 is"),
        ({**TORCHRUN, "LOCAL_RANK": None}, "LOCAL_RANK is not set"),
        ({**TORCHRUN, "RANK": "one"}, "RANK=one: this environment variable should be a whole number"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4: it should be below WORLD_SIZE=4"),
    ],
)  # fmt: skip
def test_variables_that_are_incomplete_are_one_sentence(given, sentence, environment):
    environment({name: value for name, value in given.items() if value is not None})
    with pytest.raises(InputError, match=sentence):
        launched.find_place()


def test_more_ranks_than_cuda_devices(environment, monkeypatch):
    environment(TORCHRUN)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match=r"LOCAL_WORLD_SIZE=2: this machine has 1 CUDA devices; ask for as many, or for fewer"):
        launched.take_device("auto", "LOCAL_WORLD_SIZE")


def test_the_first_rank_that_fails_says_why(tmp_path):
    """Two processes that do not get as far as to meet; the store is with rank 0, as under srun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import json, sys; from paft.runtime import launched; print(json.dumps(launched.reports()), flush=True); input()"
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | place | {"RANK": str(n), "LOCAL_RANK": str(n), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(2)
    ]  # fmt: skip
    said = sorted(json.loads(process.stdout.readline()) for process in started)
    for process in started:
        process.communicate("\n")
    assert said == [False, True]


def test_a_sweep_on_ranks_is_refused(environment, monkeypatch, capsys):
    environment(TORCHRUN)
    monkeypatch.setattr(launched, "_store", lambda: pytest.fail("there is none"))
    monkeypatch.setattr(hydra_app, "reports", lambda: True)
    monkeypatch.setattr("sys.argv", ["train.py", "-m", "seed=0,1"])
    with pytest.raises(SystemExit) as left:
        hydra_app.run_hydra(lambda: pytest.fail("it began"), TrainConfig)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: -m: the launcher has started 4 ranks, which are for a single run;")


def test_tasks_of_a_job_are_ranks():
    check_launcher({"tasks_per_node": 4, "nodes": 2, "gpus_per_node": 4}, devices=1)
    check_launcher({"tasks_per_node": 2, "gpus_per_node": None}, devices=2)
    with pytest.raises(InputError, match=r"trainer\.devices=3: a job has 8 tasks, each of them a rank"):
        check_launcher({"tasks_per_node": 4, "nodes": 2}, devices=3)
    with pytest.raises(InputError, match=r"hydra\.launcher\.gpus_per_node=1: a run uses 4 on a node"):
        check_launcher({"tasks_per_node": 4, "gpus_per_node": 1}, devices=1)


@pytest.mark.parametrize("variables", [{"RANK": "0", "WORLD_SIZE": "abc"}, {**TORCHRUN, "RANK": "abc"}])
def test_variables_that_are_no_numbers_are_reported(environment, variables):
    environment(variables)
    with pytest.raises(InputError, match="=abc: this environment variable should be a whole number"):
        launched.find_place()
    launched.reports.cache_clear()
    assert launched.reports()
    launched.reports.cache_clear()
