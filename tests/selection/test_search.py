"""A search inside a run, on a tiny Llama: what it may look at, what it leaves, and that a run goes on with its choice."""

import json

import pytest
import yaml

from paft.config.adapter import read_metadata
from paft.evaluation.matrix import read_matrix
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.runtime.errors import InputError
from tests.conftest import compose_config


@pytest.mark.parametrize("method", ["top_accuracy", "robust", "zopo"])
def test_a_search_looks_at_training_prompts_and_validation_examples_alone(method, tiny_overrides, capsys):
    overrides = [*tiny_overrides, f"method={method}", "method.budget=240"]
    config = compose_config(*overrides)
    results = run_training(config)
    assert "1 of 60 templates" in (said := capsys.readouterr().out) and "looked for with at most 240 renderings" in said
    folder = results.folder
    found = json.loads((folder / "selection.json").read_text())
    assert results.selection.model_dump() == found and found["renderings"] <= 240
    train = {row["id"]: row["text"] for row in yaml.safe_load((folder / "prompts" / "train.yaml").read_text())["prompts"]}
    assert train[found["chosen"]["id"]] == found["chosen"]["text"]
    assert {trial["prompt"] for trial in found["trace"]} <= set(train)
    assert len(found["trace"]) == (60 if method != "zopo" else 15)
    validation = {example.id for example in prepare(config).inputs.examples.validation}
    paths = [*(folder / "selection").glob("*.parquet")]
    assert paths
    for path in paths:
        assert set(read_matrix(path).example_ids) <= validation
    assert read_metadata(folder / "adapter")["method"] == method


def test_a_search_that_was_done_is_not_done_again(tiny_overrides, monkeypatch):
    config = compose_config(*tiny_overrides, "method=zopo", "method.budget=64")
    folder = run_training(config).folder
    first = (folder / "selection.json").read_bytes()
    (folder / "results.json").unlink()
    monkeypatch.setattr("paft.selection.search.zopo", lambda *_: pytest.fail("searched again"))
    run_training(compose_config(*tiny_overrides, "method=zopo", "method.budget=64", "trainer.micro_batch_tokens=512"))
    assert (folder / "selection.json").read_bytes() == first and (folder / "results.json").is_file()


@pytest.mark.parametrize(("method", "least"), [("top_accuracy", 60), ("robust", 240), ("zopo", 5)])
def test_a_budget_that_is_too_small_is_named(method, least, tiny_overrides):
    with pytest.raises(InputError, match=f"method.budget=4: {method} on 60 training prompts needs {least} renderings"):
        prepare(compose_config(*tiny_overrides, f"method={method}", "method.budget=4"))


def test_budget_is_part_of_a_search_and_of_nothing_else(tiny_overrides):
    for method, differ in (("zopo", True), ("user", False), ("paft", False)):
        names = {compose_config(*tiny_overrides, f"method={method}", f"++method.budget={n}").run_name for n in (64, 128)}
        assert (len(names) == 2) is differ
    with pytest.raises(InputError, match=r"method\.budget has no value"):
        compose_config(*tiny_overrides, "method=zopo", "method.budget=null")


def test_a_search_has_all_validation_rows_that_are_not_scored(tiny_overrides, tmp_path):
    """So that a search is as near to that of a run that scores the test as it can be."""
    usual = prepare(compose_config(*tiny_overrides, "method=zopo")).inputs.examples
    held = prepare(compose_config(*tiny_overrides, "method=zopo", "evaluate=false")).inputs.examples
    n, scored = 4, len(held.test)  # validation.examples, eval_examples
    assert held.test == usual.validation[n : n + scored] and scored == 6
    assert held.validation == (*usual.validation[:n], *usual.validation[n + scored :])
    assert prepare(compose_config(*tiny_overrides, "method=zopo", "method.budget=1000000")).plan.search_renderings == 60 * len(
        usual.validation
    )
    plain = prepare(compose_config(*tiny_overrides, "evaluate=false")).inputs.examples
    assert plain.validation == usual.validation[:n] and plain.test == held.test
