"""Scoring in shared batches equals a naive pass, one rendering and one choice at a time, on four architectures."""

import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig, Qwen3Config

from paft.config.schema import LoraConfig, ModelConfig
from paft.data.encode import Encoded, Encoder
from paft.data.tasks.base import Example
from paft.data.tasks.story_facts import generate_rows
from paft.evaluation import scoring
from paft.evaluation.cells import Cell, batches, common_prefix, encode, windows
from paft.evaluation.generation import Generation, Stop
from paft.evaluation.likelihood import Likelihood, choice_log_probs, prepare, share
from paft.evaluation.matrix import read_matrix
from paft.evaluation.metrics import Metric
from paft.evaluation.scoring import Scoring, answering_by, score
from paft.evaluation.store import MatrixStore
from paft.model.attention import NAMES
from paft.model.base import load_base, load_tokenizer
from paft.packing import Branches
from paft.prompts import PromptPool, PromptTemplate
from paft.runtime.ahead import ahead
from paft.runtime.errors import InputError

# Openings of several lengths, one of a letter, one that is empty; the story first, in the middle and at the end.
TEXTS = (
    "{story}\n{question}\n{A}, {B}, {C}, {D}\nAnswer:",
    "Read the story and answer the question about it with one of the four options. {story} {question} {A} {B} {C} {D} =>",
    "A {A} B {B} C {C} D {D} {question} {story} So:",
    "Q {question} Story: {story} Options: {A}/{B}/{C}/{D}?",
)
SMALL = {"vocab_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": 0, "bos_token_id": 0}
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}
ARCHITECTURES = {
    "gpt2": GPT2Config(n_embd=32, n_positions=512, **SMALL),
    "qwen3": Qwen3Config(head_dim=8, **WIDTH, **SMALL),
    "mistral, sliding window": MistralConfig(sliding_window=24, **WIDTH, **SMALL),
}


@pytest.fixture(scope="session", params=["llama", *ARCHITECTURES])
def model_folder(request, tiny_llama, tmp_path_factory):
    if request.param == "llama":
        return tiny_llama
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(ARCHITECTURES[request.param]).save_pretrained(folder)
    load_tokenizer(config_of(tiny_llama)).save_pretrained(folder)
    return folder


def config_of(folder, attention="auto"):
    lora = LoraConfig(r=4, alpha=8, dropout=0.0, target_modules=["q_proj"])
    return ModelConfig(path=str(folder), dtype="fp32", lora=lora, attention=attention)


def stories(n: int) -> list[Example]:
    """Return examples of which every two or three share a group, whose stories are one: as the articles of RACE."""
    rows = generate_rows("test", n)
    examples = []
    for i, row in enumerate(rows):
        shared = rows[i // 3 * 3]["story"] + " " + " ".join(r["story"] for r in rows[: i // 3])  # ragged
        fields = {**row, "story": shared}
        choices = tuple(row[letter] for letter in "ABCD")
        gold = "ABCD".index(row["answer"])
        examples.append(Example(str(i), fields, choices, gold, choices[gold], f"group {i // 3}", "all"))
    return examples


def setting_of(folder, answer, attention="auto"):
    config = config_of(folder, attention)
    model = load_base(config, torch.device("cpu"))
    pool = PromptPool("p", tuple(PromptTemplate(t, str(i)) for i, t in enumerate(TEXTS)), answer, "shown")
    return model, Encoder(load_tokenizer(config), answer, 512), pool, stories(8)


@pytest.fixture(params=["text", "letter"])
def setting(request, tiny_llama):
    return setting_of(tiny_llama, request.param)


@pytest.mark.parametrize("attention", NAMES)
@pytest.mark.parametrize("answer", ["text", "letter"])
def test_log_probs_equal_a_naive_pass(model_folder, answer, attention, tmp_path):
    model, encoder, pool, examples = setting_of(model_folder, answer, attention)
    store = MatrixStore(tmp_path, {})
    score(Likelihood(model, encoder), encoder, pool, examples, batch_tokens=900, store=store)
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    for row in pq.read_table(store.path).to_pylist():
        cell = encoder.scoring(pool.templates[row["prompt"]], examples[row["example"]])
        wanted = []
        for continuation in cell.continuations:
            with torch.no_grad():
                log_probs = plain(torch.tensor([cell.context + continuation])).logits[0].log_softmax(-1)
            places = range(len(cell.context) - 1, len(cell.context) + len(continuation) - 1)
            wanted.append(sum(float(log_probs[i, token]) for i, token in zip(places, continuation, strict=True)))
        assert row["log_probs"] == pytest.approx(wanted, abs=1e-4)
        assert row["predicted"] == int(np.argmax(wanted)) and row["correct"] == (row["predicted"] == row["gold"])


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_the_matrix_does_not_depend_on_the_batches(setting, batch_tokens):
    model, encoder, pool, examples = setting
    usual = score(Likelihood(model, encoder), encoder, pool, examples, batch_tokens=600)
    other = score(Likelihood(model, encoder), encoder, pool, examples, batch_tokens=batch_tokens)
    assert np.array_equal(usual.predicted, other.predicted) and np.array_equal(usual.correct, other.correct)


def cells_of(setting):
    _, encoder, pool, examples = setting
    return [cell for window in windows(pool, examples) for cell in encode(encoder, pool, examples, window)]


def test_what_repeats_is_computed_once(setting):
    """The openings and, where the story comes before the question, the stories of a group; what choices begin with."""
    cells = sorted(cells_of(setting), key=lambda cell: (cell.prompt, cell.group))
    sequences, own = share(cells)
    assert sum(s.n_tokens for s in sequences) < 0.8 * sum(cell.n_tokens for cell in cells)
    for cell, place in zip(cells, own, strict=True):
        context, at = list(sequences[place].context), sequences[place].parent
        while at is not None:
            context, at = [*sequences[at].context, *context], sequences[at].parent
        assert context == [*cell.encoded.context, *cell.common]
        assert [[*cell.common, *rest] for rest in sequences[place].continuations] == [
            choice[:-1] for choice in cell.encoded.continuations
        ]


def test_what_choices_begin_with_is_computed_once_and_the_last_token_of_each_never():
    cell = Cell(0, 0, "g", Encoded([7, 8], [[1, 2, 3], [1, 2, 4, 5], [1, 2]], truncated=False))
    assert cell.common == [1] and cell.n_tokens == 2 + 1 + 2 + 3 + 1
    assert share([cell])[0] == [Branches([7, 8, 1], [[2], [2, 4], []])]
    assert Cell(0, 0, "g", Encoded([7, 8], [[3], [3]], truncated=False)).common == []
    assert Cell(0, 0, "g", Encoded([7, 8], [], truncated=False)).n_tokens == 2  # generation


def test_a_single_cell_and_unlike_cells_share_nothing(setting):
    cells = cells_of(setting)
    for lonely in ([cells[0]], [cells[0], cells[-1]]):
        assert all(sequence.parent is None for sequence in share(lonely)[0])


def test_a_prefix_leaves_every_sequence_a_token_of_its_own():
    assert common_prefix([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert common_prefix([[1], [1]]) == 0 and common_prefix([[1, 2, 3], [1, 5, 3]]) == 1


def test_an_empty_prompt_is_scored(setting):
    """What is left of a prompt of nothing but white space and an empty field is end-of-text."""
    model, encoder, _, examples = setting
    blank = Example("0", {**examples[0].fields, "story": " "}, examples[0].choices, 0, "", "g", "all")
    cell = Cell(0, 0, "g", encoder.scoring(PromptTemplate("{story}", "0"), blank))
    with torch.no_grad():
        (found,) = choice_log_probs(model, prepare([cell]))
    assert cell.encoded.context == [0] and torch.isfinite(found).all()


def test_batches_keep_to_the_budget_and_hold_every_cell_once(setting):
    cells = cells_of(setting)
    found = batches(cells, 700)
    assert sorted((c.prompt, c.example) for batch in found for c in batch) == [(c.prompt, c.example) for c in cells]
    for batch in found:
        assert len(batch) == 1 or sum(s.n_tokens for s in share(batch)[0]) <= 700


def test_windows_cover_the_matrix_in_order(setting):
    _, _, pool, examples = setting
    wanted = [(p, e) for p in range(len(pool.templates)) for e in range(len(examples))]
    for size in (1, 3, 8, 20, 1000):
        found = windows(pool, examples, size)
        assert [(p, e) for prompts, some in found for p in prompts for e in some] == wanted
        assert all(len(prompts) * len(some) <= max(size, len(some)) and len(some) <= size for prompts, some in found)


class Watched(Likelihood):
    """Asks `before` of each batch, which may raise, and keeps the batches' sizes."""

    def __init__(self, model, encoder, before):
        super().__init__(model, encoder)
        self.before, self.sizes = before, []

    def __call__(self, cells, examples, prepared):
        self.sizes.append(len(cells))
        self.before(self.sizes)
        return super().__call__(cells, examples, prepared)


def test_a_batch_that_does_not_fit_into_memory_is_split(setting):
    model, encoder, pool, examples = setting
    whole = score(Likelihood(model, encoder), encoder, pool, examples, batch_tokens=100_000)

    def scarce(sizes):
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    answering = Watched(model, encoder, scarce)
    split = score(answering, encoder, pool, examples, batch_tokens=100_000)
    assert answering.sizes[0] == 32 and np.array_equal(split.predicted, whole.predicted)

    def broken(sizes):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        score(Watched(model, encoder, broken), encoder, pool, examples, batch_tokens=100_000)


def test_equal_scores_take_the_first_and_are_counted(setting, monkeypatch):
    model, encoder, pool, examples = setting
    monkeypatch.setattr(
        "paft.evaluation.likelihood.choice_log_probs",
        lambda _, batch, *rest: [torch.tensor([-2.0, -1, -1, -3])] * len(batch.lengths),
    )
    matrix = score(Likelihood(model, encoder), encoder, pool, examples, batch_tokens=1000)
    assert (matrix.predicted == 1).all() and matrix.tied.all()


def test_a_model_that_computes_no_numbers_is_refused(setting):
    """Otherwise an answer would be chosen among scores that are none."""
    model, encoder, pool, examples = setting
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    for method in ("likelihood", "generate"):
        answering = answering_by(model, encoder, pool, examples, Scoring(Metric("choice"), method, max_new_tokens=3))
        with pytest.raises(InputError, match=r"not numbers \(NaN\): its training diverged \(lower optim.lr\)"):
            score(answering, encoder, pool, examples, batch_tokens=1000)


def test_scores_are_normalised_as_asked(setting, monkeypatch):
    model, encoder, pool, examples = setting
    long = Example("0", examples[0].fields, ("x" * 40, "a b", "y", "z"), 0, "", "g", "all")
    cell = Cell(0, 0, "g", encoder.scoring(pool.templates[0], long))
    lengths = [len(c) for c in cell.encoded.continuations]
    monkeypatch.setattr("paft.evaluation.likelihood.choice_log_probs", lambda *_: [torch.tensor([-4.0, -3, -2, -2])])
    for normalise, wanted in (("sum", [-4.0, -3, -2, -2]), ("token", [-4 / lengths[0], -3 / lengths[1], -2 / lengths[2], -2])):
        (row,) = Likelihood(model, encoder, normalise)([cell], [long], prepare([cell]))
        assert row["predicted"] == int(np.argmax(wanted)) and row["log_probs"] == [-4.0, -3, -2, -2]
    if encoder.answer == "text":
        assert Likelihood(model, encoder, "byte")([cell], [long], prepare([cell]))[0]["predicted"] == 0
    hidden = PromptPool("h", pool.templates, "text", "hidden")
    assert answering_by(model, encoder, hidden, examples, Scoring(Metric("choice"))).normalise == "byte"
    assert answering_by(model, encoder, pool, examples, Scoring(Metric("choice"))).normalise == "sum"


def test_generation_equals_one_row_at_a_time(model_folder):
    """Rows of several lengths that end at several moments, against transformers' own loop."""
    model, encoder, pool, examples = setting_of(model_folder, "text")
    contexts = [encoder.scoring(pool.templates[i % 4], examples[i]).context for i in range(8)]
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    texts = Generation(model, encoder, Metric("exact"), Stop(20, at_line_break=False)).write(contexts)
    for context, (text, n_tokens) in zip(contexts, texts, strict=True):
        alone = plain.generate(torch.tensor([context]), max_new_tokens=20, do_sample=False, pad_token_id=0)[0, len(context) :]
        assert text == encoder.tokenizer.decode(alone, skip_special_tokens=True).strip() and n_tokens == len(alone)


def test_finished_rows_leave_and_texts_end_where_they_should(setting, monkeypatch):
    model, encoder, _, _ = setting
    tokenizer = encoder.tokenizer
    yes, no, line = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in ("y", "n", "\n"))
    scripts = [[yes, 0], [line, line, no, line], [no, yes, line], [yes] * 9]
    sizes = []

    class Rows:
        """The cache, of which the script needs no more than which rows are left."""

        left = torch.arange(4)

        def batch_select_indices(self, kept):
            self.left = self.left[kept]

    def scripted(model, ids, mask, cache):
        sizes.append(len(ids))
        return torch.tensor([scripts[row][mask.shape[1] - 3] for row in cache.left])

    monkeypatch.setattr("paft.evaluation.decoding.DynamicCache", Rows)
    monkeypatch.setattr("paft.evaluation.decoding.next_tokens", scripted)
    found = Generation(model, encoder, Metric("exact"), Stop(6, at_line_break=True)).write([[1, 2, 3]] * 4)
    first = {token: tokenizer.decode([token]).strip() for token in (yes, no)}
    assert found == [(first[yes], 2), (first[no], 4), (tokenizer.decode([no, yes]).strip(), 3), (found[3][0], 6)]
    assert sizes == [4, 4, 3, 2, 1, 1]
    through = Generation(model, encoder, Metric("exact"), Stop(3, at_line_break=False)).write([[1, 2, 3]] * 4)
    assert [n for _, n in through] == [2, 3, 3, 3]


def test_generation_ends_where_the_window_does(tiny_llama, tmp_path):
    """A learned position table has no row beyond it."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_positions=64, **SMALL)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    load_tokenizer(config_of(tiny_llama)).save_pretrained(tmp_path)
    model, encoder, _, _ = setting_of(tmp_path, "text")
    writer = Generation(model, encoder, Metric("exact"), Stop(12, at_line_break=False))
    (_, at_the_end), (_, usual) = writer.write([[5] * 60, [5] * 3])
    assert at_the_end <= 4 and usual <= 12


class Killed(BaseException):
    """What a test calls a kill."""


@pytest.fixture
def ahead_of_the_model(monkeypatch):
    """Batches are made ready in a thread, as on a GPU."""
    upcoming = scoring._upcoming
    monkeypatch.setattr(scoring, "_upcoming", lambda *given: ahead(upcoming(*given), 3))


class Counted(Likelihood):
    """Notes which cells are made ready, and in which thread, and is killed at a batch."""

    kill_at = None

    def __init__(self, model, encoder):
        super().__init__(model, encoder)
        self.made, self.threads, self.answered = [], set(), []

    def prepare(self, cells):
        self.made.append([(cell.prompt, cell.example) for cell in cells])
        self.threads.add(threading.current_thread().name)
        return super().prepare(cells)

    def __call__(self, cells, examples, prepared):
        self.answered.append([(cell.prompt, cell.example) for cell in cells])
        if len(self.answered) == self.kill_at:
            raise Killed
        if len(cells) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(cells, examples, prepared)


def no_thread_is_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_batches_made_ready_ahead_of_the_model_change_nothing(tiny_llama, tmp_path, request):
    """Nor do they where a batch is halved, an evaluation is killed in its second window, or a part file is there already."""
    model, encoder, pool, examples = setting_of(tiny_llama, "text")

    def run(folder, kill_at=None):
        answering = Counted(model, encoder)
        answering.kill_at = kill_at
        folder.mkdir(exist_ok=True)
        store = MatrixStore(folder, {})
        try:
            score(answering, encoder, pool, examples, batch_tokens=900, store=store, window_cells=16)
        except Killed:
            assert kill_at
        return answering, store.path

    plain, wanted = run(tmp_path / "plain")
    assert plain.threads == {threading.current_thread().name}
    request.getfixturevalue("ahead_of_the_model")
    threaded, path = run(tmp_path / "ahead")
    assert threaded.answered == plain.answered and any(name.startswith("ahead") for name in threaded.threads)
    assert path.read_bytes() == wanted.read_bytes() and no_thread_is_left()
    run(tmp_path / "killed", kill_at=len(plain.answered) - 1)
    assert no_thread_is_left()
    rest, path = run(tmp_path / "killed")
    assert len(rest.answered) < len(plain.answered) / 2 and sorted(rest.made) == sorted(rest.answered)
    assert path.read_bytes() == wanted.read_bytes()


def test_an_error_in_making_batches_ready_arrives_as_it_is(tiny_llama, ahead_of_the_model, monkeypatch):
    model, encoder, pool, examples = setting_of(tiny_llama, "text")
    usual, error = Encoder.scoring, InputError("one clear sentence")

    def failing(self, template, example):
        if example is examples[5] and template is pool.templates[1]:
            raise error
        return usual(self, template, example)

    monkeypatch.setattr(Encoder, "scoring", failing)
    answering = Counted(model, encoder)
    with pytest.raises(InputError) as raised:
        score(answering, encoder, pool, examples, batch_tokens=500, window_cells=8)
    assert raised.value is error and no_thread_is_left()


def test_a_rank_makes_only_its_own_batches_ready(setting):
    _, encoder, pool, examples = setting
    coming = list(scoring._upcoming(encoder, pool, examples, windows(pool, examples, 16), 500, None, prepare, turn=(1, 2)))
    assert [batch.number for batch in coming] == list(range(len(coming))) and len(coming) > 4
    assert [batch.prepared is not None for batch in coming] == [number % 2 == 1 for number in range(len(coming))]
    assert [batch.cells for batch in coming] == [
        batch for window in windows(pool, examples, 16) for batch in batches(list(encode(encoder, pool, examples, window)), 500)
    ]


def test_a_killed_evaluation_goes_on_where_it_was(setting, tmp_path):
    model, encoder, pool, examples = setting
    killed = tmp_path / "killed"

    def run(folder, adapter="one", kill_at=0):
        """Return the matrix and the sizes of the batches that were scored."""

        def kill(sizes):
            if len(sizes) == kill_at:
                raise Killed

        folder.mkdir(exist_ok=True)
        answering = Watched(model, encoder, kill)
        store = MatrixStore(folder, {"adapter": adapter})
        two = {"window_cells": 16}  # two windows
        return score(answering, encoder, pool, examples, batch_tokens=700, store=store, **two), answering.sizes

    whole, plan = run(tmp_path / "whole")
    assert len(plan) > 3
    with pytest.raises(Killed):
        run(killed, kill_at=4)
    (parts,) = killed.glob(".matrix-*")
    assert sorted(path.name for path in parts.iterdir()) == [f"{batch:06}.parquet" for batch in range(3)]
    (parts / "000001.parquet").write_bytes(b"torn")
    (parts / "000002.parquet").write_bytes((parts / "000000.parquet").read_bytes())  # of a plan with other batches
    again, sizes = run(killed)
    assert sizes == plan[1:] and not parts.exists()
    assert np.array_equal(again.predicted, whole.predicted) and np.array_equal(again.correct, whole.correct)
    assert (killed / "matrix.parquet").read_bytes() == (tmp_path / "whole" / "matrix.parquet").read_bytes()
    seconds = MatrixStore(killed, {"adapter": "one"}).seconds()
    assert set(seconds) == {template.id for template in pool.templates} and all(s > 0 for s in seconds.values())
    assert run(killed)[1] == []  # finished already
    assert run(killed, adapter="other")[1] == plan  # another matrix


def test_a_matrix_of_another_version_or_a_damaged_one_is_refused(setting, tmp_path):
    model, encoder, pool, examples = setting
    store = MatrixStore(tmp_path, {})
    score(Likelihood(model, encoder), encoder, pool, examples, batch_tokens=700, store=store)
    table = pq.read_table(store.path)
    pq.write_table(table.replace_schema_metadata({"version": "1"}), store.path)
    with pytest.raises(InputError, match="of version 1, this code reads 3; evaluate the run again"):
        read_matrix(store.path)
    pq.write_table(table.slice(1), store.path)
    with pytest.raises(InputError, match="31 cells are not all of 4 prompts x 8 examples"):
        read_matrix(store.path)
    store.path.write_bytes(b"torn")
    assert not store.finished()
    with pytest.raises(InputError, match="this score matrix is damaged"):
        read_matrix(store.path)
    with pytest.raises(InputError, match="there is no such score matrix"):
        read_matrix(tmp_path / "none.parquet")
