"""What training drew: counted for every draw, by family and part of the training, in results, page and W&B."""

import json
from collections import Counter

import pytest

from paft.data.updates import updates_of
from paft.jobs.one_run import prepare
from paft.jobs.train import run_training
from paft.prompts.sampling import families_of
from paft.reporting.drawn import drawn_record, drawn_tables
from tests.conftest import compose_config, whole_and_resumed
from tests.prompts.test_sampling import POOL, TASK


def test_the_record_is_what_the_schedule_draws_and_stands_on_the_page(tiny_overrides):
    config = compose_config(*tiny_overrides, "K=1", "train_examples=40")
    results = run_training(config)
    run = prepare(config)
    updates = updates_of(config, 40, run.inputs.train, run.inputs.examples.task)
    of_updates = [[tag.template for tag in update] for epoch in range(config.T) for update in updates.of_epoch(epoch)]
    wordings = families_of(run.inputs.train, run.inputs.examples.task.choice_fields)[0]
    wanted = Counter()
    for number, templates in enumerate(of_updates):
        wanted.update((wordings[i], number * 5 // len(of_updates)) for i in templates)
    drawn = results.training.drawn
    assert Counter({(n, part): c for n, parts in drawn.wordings.items() for part, c in enumerate(parts) if c}) == wanted
    assert drawn.templates == len({i for of in of_updates for i in of}) == results.templates_shown
    assert sum(map(sum, drawn.layouts.values())) == 40 * config.T
    page = (results.folder / "report.html").read_text()
    assert "What training drew" in page and f"{drawn.templates} prompts, as varied as" in page
    assert "before a draw changed the layout" not in page
    mutated = run_training(compose_config(*tiny_overrides, "sampler=mutated")).folder
    assert "those of the pool, before a draw changed the layout" in (mutated / "report.html").read_text()


def test_the_worst_candidates_are_counted_and_a_resumed_run_counts_on(tiny_overrides, tmp_path, monkeypatch):
    own = [*tiny_overrides, "sampler=worst_of", "sampler.adversarial=1", "sampler.warmup=0", "trainer.checkpoint_every=1"]
    whole, resumed = whole_and_resumed(own, tmp_path / "again", monkeypatch)
    assert whole.training.drawn == resumed.training.drawn
    assert sum(map(sum, whole.training.drawn.wordings.values())) == 24 * 2  # of rows and epochs, however many candidates


def test_equal_draws_are_as_varied_as_their_number_and_a_single_prompt_is_none():
    n = len(POOL.templates)
    even = drawn_record({(part, i): 2 for part in range(5) for i in range(n)}, 5, POOL, TASK)
    assert even.templates == n and even.effective_templates == pytest.approx(n)
    assert drawn_record({(0, 0): 30, (4, 1): 10}, 5, POOL, TASK).effective_templates == pytest.approx(1.6)
    assert drawn_record({(0, 0): 8}, 5, POOL.head(1), TASK) is None


def test_tables_show_those_that_were_drawn_most_at_the_end():
    counts = {(0, 0): 9, (4, 0): 1, (4, 5): 3}
    (_, rows, n), *_ = drawn_tables(drawn_record(counts, 5, POOL, TASK))
    wordings = families_of(POOL, TASK.choice_fields)[0]
    assert rows[0].name == wordings[5] and rows[0].shares == [0, 0, 0, 0, 75]
    assert rows[1].name == wordings[0] and rows[1].shares == [100, 0, 0, 0, 25]
    assert n == len({*wordings}) >= len(rows)
    json.dumps(rows)
