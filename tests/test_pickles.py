"""No pickle of a stranger is ever loaded: not as a base model, not as an adapter, not as a checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch

from paft.config.adapter import read_metadata
from paft.model.base import load_base
from paft.runtime.errors import InputError
from paft.training.checkpoints import SaveBest, usable_state
from tests.conftest import compose_config


class Payload:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


def test_weights(tiny_llama, tmp_path, mark):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Payload(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="this model cannot be loaded"):
        load_base(compose_config(f"model.path={folder}").model, torch.device("cpu"))
    assert not mark.exists()


def test_an_adapter(tmp_path, mark):
    (tmp_path / "paft.json").write_text("{}")
    torch.save({"weight": Payload(mark)}, tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="this is no adapter of a PAFT run"):
        read_metadata(tmp_path)
    assert not mark.exists()


def test_checkpoints(tmp_path, mark, capsys):
    torch.save({"run": "this", "state_dict": Payload(mark)}, tmp_path / "update-0000001.ckpt")
    assert usable_state(tmp_path, "this") is None
    assert "update-0000001.ckpt is damaged (UnpicklingError)" in capsys.readouterr().out
    torch.save({"state_dict": Payload(mark)}, tmp_path / "best.ckpt")
    best = SaveBest(tmp_path)
    best.best_model_path = str(tmp_path / "best.ckpt")
    with pytest.raises(InputError, match="this checkpoint is damaged"):
        best.best()
    assert not mark.exists()
