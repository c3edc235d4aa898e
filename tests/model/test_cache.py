"""Where converted models are kept."""

import os
import pwd
from pathlib import Path

import pytest

from paft.model.cache import cache_dir
from paft.runtime.errors import InputError
from tests.conftest import compose_config


@pytest.fixture
def nobody(monkeypatch):
    """A user without a home folder: HOME is not set and the uid is unknown."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("PAFT_CACHE", raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()


def test_without_a_home_the_cache_is_where_it_is_asked_for(nobody, monkeypatch):
    monkeypatch.setenv("PAFT_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")


@pytest.mark.parametrize("cache", [None, ""])
def test_without_both_one_sentence(cache, nobody, monkeypatch):
    if cache is not None:
        monkeypatch.setenv("PAFT_CACHE", cache)
    with pytest.raises(InputError, match=r"^This user has no home folder to keep converted models in; set PAFT_CACHE to"):
        cache_dir()


def test_in_the_home_otherwise(monkeypatch):
    monkeypatch.delenv("PAFT_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_dir() == Path("/home/me/.cache/paft")


def test_wandb_needs_a_home(nobody):
    assert "HOME" not in os.environ
    with pytest.raises(InputError, match=r"^logger=wandb: W&B needs a home folder and this user has none"):
        compose_config("logger=wandb")
