"""The W&B workspace is built and checked without a login; a view of one sweep shows its runs alone."""

import json
import sys

import pytest

from experiments import wandb_workspace

pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")


def test_check_needs_no_login_and_sends_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["wandb_workspace", "--check", "--sweep", "table1-cpu"])
    wandb_workspace.main()
    assert capsys.readouterr().out.startswith("3 sections, 10 panels, ")


def test_a_view_of_a_sweep_takes_its_group_or_its_id():
    def filters(sweep: str | None) -> list[tuple[str, str]]:
        content = json.loads(wandb_workspace.workspace("me", "paft", sweep)._to_model().model_dump_json(by_alias=True))
        (runs,) = content["spec"]["section"]["runSets"]
        return [(one["key"]["name"], one["value"]) for one in runs["filters"].get("filters") or []]

    assert filters("sw1") == [("group", "sw1"), ("sweep", "sw1")] and filters(None) == []
