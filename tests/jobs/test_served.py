"""Evaluating a model behind an OpenAI-compatible API: a real local server of a real tiny model, faults included."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import paft
from paft.config.compose import CONF
from paft.evaluation.served import _same_name, run
from paft.evaluation.store import read_cells
from paft.jobs.evaluate import run_evaluation
from paft.reporting.results import Results, read_results
from paft.runtime.errors import InputError
from tests.conftest import compose_evaluation
from tests.reliability.bad_input import is_one_sentence
from tests.reliability.bad_inputs.files import lines, question
from tests.served import Fault, TinyServer, error, served

CHAT = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
PROMPTS = [
    {"text": "{question} A: {A} B: {B}\nAnswer:"},
    {"text": "Choose A ({A}) or B ({B}). {question} "},
    {"text": "(A) {A} (B) {B}\nWhich letter answers this: {question}\n"},
]
TEXTS = [{"text": "{question} It is {A} or {B}.\nAnswer:"}, {"text": "Is it {A} or is it {B}? {question}\n"}]
N = 10  # rows
MANY = 512  # the tiny tokenizer's whole vocabulary


@pytest.fixture(scope="module")
def model(tiny_llama, tmp_path_factory) -> Path:
    """The tiny Llama with a chat template."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path_factory.mktemp("served") / "tiny"))
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture(scope="module")
def everything(model):
    """A server that gives everything, and lists all tokens."""
    with served(model, listed=MANY) as server:
        yield server


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def own(tmp_path) -> list[str]:
    """Somebody's own rows with prompts for letters, and a place for runs."""
    (tmp_path / "rows.jsonl").write_text(lines(*map(question, range(N))))
    (tmp_path / "letters.jsonl").write_text(lines(*PROMPTS))
    (tmp_path / "texts.jsonl").write_text(lines(*TEXTS))
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "rows.jsonl", tmp_path / "folder" / "test.jsonl")
    dataset = ["dataset=jsonl", f"dataset.path={tmp_path / 'folder'}", "dataset.gold=answer", "dataset.choices=[A,B]"]
    return [
        *dataset,
        f"prompts.test={tmp_path / 'letters.jsonl'}",
        f"output_root={tmp_path / 'runs'}",
        "trainer.progress=false",
    ]


@pytest.fixture
def texts(own, tmp_path) -> list[str]:
    """The same rows with prompts for texts."""
    return [*own[:4], "dataset.answer=text", f"prompts.test={tmp_path / 'texts.jsonl'}", *own[5:]]


def by_api(server: TinyServer, *overrides: str) -> Results:
    return run_evaluation(compose_evaluation(f"model.api={server.url}", "model.name=tiny", *overrides))


def by_weights(folder: Path, *overrides: str) -> Results:
    local = ["model=smollm2_135m", f"model.path={folder}", "model.dtype=fp32", "trainer.accelerator=cpu"]
    return run_evaluation(compose_evaluation(*local, *overrides))


def assert_same(one: Results, other: Results) -> None:
    """Assert that two evaluations made the same predictions, with the same log-probabilities or texts."""
    a, b = (read_cells(results.folder / "matrix.parquet").to_pylist() for results in (one, other))
    asked = ("prompt_digest", "example_digest", "gold", "predicted", "correct", "output", "n_choices")
    assert [[row[key] for key in asked] for row in a] == [[row[key] for key in asked] for row in b]
    np.testing.assert_allclose(*([row["log_probs"] for row in rows] for rows in (a, b)), atol=1e-4)
    assert one.robustness == other.robustness and one.scoring.scoring == other.scoring.scoring


def test_letters_by_first_tokens_of_a_chat_are_those_of_the_weights(everything, model, own):
    system = 'model.system_prompt="Be brief, please."'
    results = by_api(everything, *own, system)
    assert_same(results, by_weights(model, *own, system, "model.chat_template=true"))
    assert results.served.protocol == "the log-probabilities of the first token (top_logprobs), from chat completions"
    assert results.served.letters_not_listed == 0 and results.scoring.scoring == "likelihood"


def test_letters_by_first_tokens_without_a_chat_are_those_of_the_weights(everything, model, own, tmp_path):
    """Without a space between prompt and letter, because the tiny tokenizer makes two tokens of the two."""
    (tmp_path / "first.jsonl").write_text(lines(PROMPTS[0], {"text": "Choose A ({A}) or B ({B}). {question}"}))
    same = [*own, "dataset.answer_space=false", f"prompts.test={tmp_path / 'first.jsonl'}"]
    results = by_api(everything, *same, "model.chat_template=false")
    assert_same(results, by_weights(model, *same))
    assert results.served.protocol == "the log-probabilities of the first token (top_logprobs), from completions"


def test_white_space_at_the_end_of_a_prompt_stays_there(everything, model, own, tmp_path):
    """It takes a token of its own, whose probability is the same for all letters."""
    (tmp_path / "breaks.jsonl").write_text(lines(PROMPTS[2]))
    same = [*own, f"prompts.test={tmp_path / 'breaks.jsonl'}"]
    cells = [
        read_cells(results.folder / "matrix.parquet", ["log_probs", "predicted"]).to_pydict()
        for results in (by_api(everything, *same, "model.chat_template=false"), by_weights(model, *same))
    ]
    one, other = (np.array(own_cells["log_probs"]) for own_cells in cells)
    np.testing.assert_allclose(one[:, 0] - one[:, 1], other[:, 0] - other[:, 1], atol=1e-4)
    assert cells[0]["predicted"] == cells[1]["predicted"] and (one > other).all()


@pytest.mark.parametrize("normalise", ["sum", "token", "byte"])
def test_texts_by_echo_are_those_of_the_weights(everything, model, texts, normalise):
    same = [*texts, f"normalise={normalise}"]
    results = by_api(everything, *same)
    assert_same(results, by_weights(model, *same))
    assert results.served.protocol == "the log-probability of each answer (echo), from completions"
    assert results.sensitivity.posix is None and results.sensitivity.calibration is not None


def test_texts_of_four_options_of_a_shipped_data_set(everything, model, own):
    same = ["dataset=story_facts", "eval_examples=5", "eval_prompts=2", *own[5:]]
    assert_same(by_api(everything, *same), by_weights(model, *same))


def test_letters_are_scored_by_echo_where_no_first_tokens_are_listed(model, own):
    """Also those that the tokenizer splits, as the tiny one does a space and a letter."""
    with served(model, gives=("chat", "completions", "echo")) as server:
        results = by_api(server, *own, "scoring=likelihood")
    local = by_weights(model, *own)
    assert_same(results, local)
    assert results.served.protocol.endswith("(echo), from completions") and local.scoring.prompts_with_split_letters


def test_a_letter_that_is_split_is_not_taken_for_an_unlikely_one(everything, model, own):
    """A space and A are one token of the tiny tokenizer, a space and B are two."""
    results, local = by_api(everything, *own, "model.chat_template=false", "scoring=likelihood"), by_weights(model, *own)
    predicted = [read_cells(run.folder / "matrix.parquet", ["predicted"])["predicted"].to_pylist() for run in (results, local)]
    assert predicted[0] == predicted[1]


def test_chinese_texts_by_echo(everything, model, own, tmp_path):
    """Each of their characters is several tokens, which the server does not show as texts, so texts are generated."""
    rows = [{"question": f"{n} 加一？", "A": "对", "B": "错", "answer": "A" if n % 2 else "B"} for n in range(6)]
    (tmp_path / "folder" / "test.jsonl").write_text(lines(*rows))
    (tmp_path / "texts.jsonl").write_text(lines({"text": "{question}{A}还是{B}？答："}))
    same = [*own[:4], "dataset.answer=text", f"prompts.test={tmp_path / 'texts.jsonl'}", *own[5:]]
    with pytest.raises(InputError, match=r"the tokens that the server echoes do not spell '对'; use scoring=generate\."):
        by_api(everything, *same, "scoring=likelihood")
    chat = ["model.chat_template=true", "max_new_tokens=5"]
    results = by_api(everything, *same, *chat)
    assert_same(results, by_weights(model, *same, *chat, "scoring=generate"))


@pytest.mark.parametrize("chat", ["true", "false"])
def test_texts_written_by_a_server_are_those_of_the_weights(everything, model, texts, chat):
    same = [*texts, "scoring=generate", "max_new_tokens=12", f"model.chat_template={chat}"]
    results = by_api(everything, *same)
    assert_same(results, by_weights(model, *same))
    assert results.scoring.stop_at_line_break and results.served.protocol.startswith("generation, from")
    assert "seconds" in (results.folder / "per_prompt.csv").read_text().splitlines()[0]


def test_free_form_answers_are_generated(everything, model, own, tmp_path):
    (tmp_path / "free.jsonl").write_text(lines({"text": "{question} Say a number:"}, {"text": "Number please. {question}"}))
    free = ["dataset=jsonl", own[1], "dataset.gold=answer", "dataset.answer=text", "dataset.metric=last_number", *own[5:]]
    (tmp_path / "folder" / "test.jsonl").write_text(lines(*({"question": f"{n} + 1?", "answer": n + 1} for n in range(N))))
    same = [*free, f"prompts.test={tmp_path / 'free.jsonl'}", "max_new_tokens=8", "model.chat_template=true"]
    results = by_api(everything, *same)
    assert_same(results, by_weights(model, *same))
    assert results.scoring.stop_at_line_break is False


def test_a_server_with_completions_alone_is_used_without_a_chat(model, own):
    with served(model, gives=("completions",)) as server:
        results = by_api(server, *own, "max_new_tokens=4")
    assert results.served.protocol == "generation, from completions"
    assert_same(results, by_weights(model, *own, "max_new_tokens=4", "scoring=generate"))


def test_hidden_options_need_log_probabilities(model, own, tmp_path):
    (tmp_path / "hidden.jsonl").write_text(lines({"text": "{question}\nAnswer:"}, {"text": "Say it. {question}"}))
    hidden = [*own[:4], "dataset.answer=text", "dataset.options=hidden", f"prompts.test={tmp_path / 'hidden.jsonl'}", *own[5:]]
    with served(model) as server:
        results = by_api(server, *hidden)
    assert results.scoring.normalise == "byte"
    assert_same(results, by_weights(model, *hidden))
    with (
        served(model, gives=("chat", "completions", "top_logprobs")) as server,
        pytest.raises(InputError, match=r"hidden options need the log-probabilities of texts, which .*echo is not"),
    ):
        by_api(server, *hidden)


def test_a_letter_that_is_not_listed_is_less_likely_than_those_that_are(model, own):
    """The answers are those of the whole list; how many renderings lack a letter is said."""
    with served(model, listed=MANY) as server:
        whole = by_api(server, *own)
    rows = read_cells(whole.folder / "matrix.parquet", ["log_probs", "predicted"]).to_pylist()
    with served(model) as server:
        ranks = [server._likeliest(server.tokenizer(text).input_ids, MANY) for text in _chats(server, own)]
    places = [sorted(place for place, (token, _) in enumerate(listed) if token in ("A", "B")) for listed in ranks]
    listed = 1 + max(first for first, _ in places)  # so that the likelier letter is listed everywhere
    lacking = sum(second >= listed for _, second in places)
    assert lacking > 0
    shutil.rmtree(whole.folder)
    with served(model, listed=listed) as server:
        short = by_api(server, *own)
    cells = read_cells(short.folder / "matrix.parquet", ["log_probs", "predicted"]).to_pylist()
    assert [cell["predicted"] for cell in cells] == [row["predicted"] for row in rows]
    assert sum(-np.inf in cell["log_probs"] for cell in cells) == short.served.letters_not_listed == lacking
    assert "not every option's letter" in (short.folder / "report.html").read_text().replace("&#39;", "'")


def _chats(server: TinyServer, own: list[str]) -> list[str]:
    texts = [prompt["text"].format(**question(n)) for prompt in PROMPTS for n in range(N)]
    messages = [[{"role": "user", "content": text}] for text in texts]
    return [server.tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in messages]


def test_where_a_rendering_lists_no_letter_all_are_generated(model, own, capsys):
    """One way of scoring to a matrix. A killed evaluation does not try again what did not work."""

    def unlisted(number: int, body: dict) -> Fault | None:
        if body.get("top_logprobs") and "What is 7 + 1?" in body["messages"][-1]["content"]:
            content = [{"token": "x", "logprob": -1.0, "top_logprobs": [{"token": "x", "logprob": -1.0}]}]
            choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "length", "logprobs": {"content": content}}
            return Fault(200, json.dumps({"model": "tiny", "choices": [choice], "usage": None}))
        return None

    few = [*own, "max_new_tokens=4", "model.chat_template=true", "model.api_requests=1"]
    with served(model, listed=MANY, fault=unlisted) as server:
        results = by_api(server, *few)
        (way,) = results.served.given_up
        assert "none of the letters A, B is among" in results.served.given_up[way]
        assert way == "the log-probabilities of the first token (top_logprobs), from chat completions"
        assert results.served.protocol == "generation, from chat completions" and results.served.uncounted > 0
        assert "Not every cell can be scored by the log-probabilities of the first token" in capsys.readouterr().out
        assert_same(results, by_weights(model, *few[:-1], "scoring=generate"))
        (results.folder / "results.json").unlink()
        before = len(server.asked)
        again = by_api(server, *few)
        assert sum("top_logprobs" in body for body in server.asked[before:]) == 1  # letters with a space are tried, in vain
        assert again.served.given_up == results.served.given_up
    with (
        served(model, listed=MANY, fault=unlisted) as server,
        pytest.raises(InputError, match="scoring=likelihood: the server"),
    ):
        by_api(server, *own, *few[-2:], "scoring=likelihood")


def test_what_is_reported(model, own, capsys):
    prices = ["model.price_in=1000", "model.price_out=10000", "model.api_requests=3"]
    with served(model, listed=MANY) as server:
        results = by_api(server, *own, *prices)
        asked, most = len(server.asked), server.most_at_a_time
    found = results.served
    assert 1 < most <= 3 and asked == 3 * N + 16 + 2  # cells, the sample that is asked for twice, and two tries
    assert (found.requests, found.retries, found.uncounted) == (asked + 1, 0, 0)  # and the list of models
    assert found.completion_tokens == asked and found.prompt_tokens > 20 * asked
    assert found.cost == pytest.approx((found.prompt_tokens * 1000 + found.completion_tokens * 10000) / 1e6)
    assert found.repeated.cells == 16 and found.repeated.changed == 0
    assert found.entry == {"id": "tiny", "owned_by": "tests", "max_model_len": 2048} and found.answers_as == "tiny"
    assert results.device.type == "server" and results.dtype == "as served"
    assert results.fingerprints.base_model.sample.startswith("served:")
    assert results.folder.name.startswith("eval-jsonl-tiny-base-api-")
    assert {"per_prompt.csv", "distribution.png", "report.html", "prompts", "run.json"} <= {
        p.name for p in results.folder.iterdir()
    }
    said = capsys.readouterr().out
    assert f"  server    {server.url}, tiny (id=tiny, owned_by=tests, max_model_len=2048), 3 requests at a time\n" in said
    assert "  answers   by the log-probabilities of the first token (top_logprobs), from chat completions\n" in said
    assert "  requests  about 30, with about " in said and "at most about $" in said and "  device " not in said
    page = (results.folder / "report.html").read_text()
    assert "Its weights were not seen, so no fingerprint says which they were." in page and f"{asked + 1} requests" in page
    assert "<title>tiny: " in page and f"model=served model.api={server.url} model.name=tiny" in page
    assert read_results(results.folder) == results


def test_a_finished_evaluation_needs_no_server(model, own, capsys):
    with served(model, listed=MANY) as server:
        results = by_api(server, *own)
    assert by_api(server, *own, "model.api_requests=2", "model.api_timeout=9") == results
    assert "Finished already" in capsys.readouterr().out


def test_a_served_model_is_compared_with_its_weights(everything, model, own):
    one, other = by_api(everything, *own), by_weights(model, *own, "model.chat_template=true")
    compared = paft.compare(one, other)
    assert compared.comparison.mean.value == 0
    from paft.reporting.compare import notes

    assert any("not of one base model (fingerprints)" in note for note in notes(compared))


def test_wandb_gets_a_served_evaluation(everything, own, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    folder = by_api(everything, *own, "logger=wandb").folder
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert {".html", ".png"} <= {path.suffix for path in offline.rglob("media/**/*") if path.is_file()}
    assert not _holds(folder, b"very-secret")


def test_predictions_for_rows_without_labels(everything, own, tmp_path):
    rows = [{key: value for key, value in question(n).items() if key != "answer"} for n in range(5)]
    (tmp_path / "new.jsonl").write_text(lines(*rows))
    asked = [*own[:1], f"dataset.path={tmp_path / 'new.jsonl'}", *own[2:], f"output={tmp_path / 'out.jsonl'}"]
    results = by_api(everything, *asked)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert results.robustness is None and [row["question"] for row in found] == [row["question"] for row in rows]
    assert all(row["prediction"] in "AB" for row in found)


def test_adversarial_prompts_are_asked_for_too(everything, own, tmp_path):
    (tmp_path / "adversarial.jsonl").write_text(lines({"text": "{question} {A} {B} anser:"}, {"text": "{A}{B}{question}"}))
    results = by_api(everything, *own, f"prompts.adversarial={tmp_path / 'adversarial.jsonl'}")
    assert results.extra_measures.adversarial is not None and (results.folder / "adversarial.parquet").is_file()


def test_in_python(everything, model, tmp_path):
    rows = [question(n) for n in range(N)]
    asked = {"choices": ["A", "B"], "gold": "answer", "prompts": [prompt["text"] for prompt in PROMPTS]}
    where = {"output_root": str(tmp_path), "trainer": {"progress": False}}
    results = paft.evaluate(rows=rows, model={"api": everything.url, "name": "tiny"}, **asked, **where)
    assert results.served.name == "tiny" and len(results.scores()) == 3 * N


def test_within_an_event_loop_as_in_a_notebook():
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    async def fail() -> None:
        raise InputError("No.")

    async def notebook() -> int:
        with pytest.raises(InputError, match="No"):
            run(fail())
        return run(work())

    assert asyncio.run(notebook()) == 3


def test_arguments_of_the_chat_template_go_to_the_server(model, own):
    with served(model, listed=MANY) as server:
        by_api(server, *own, "model.chat_template_args={enable_thinking: false}")
        assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.asked)


def test_reasoning_is_left_out_of_an_answer(model, texts):
    def reason(answer: dict) -> dict:
        answer["choices"][0]["message"]["content"] = "<think>\nA, or B?\n</think>\n\n2\nAnd more."
        return answer

    with served(model, gives=("chat",), change=reason) as server:
        results = by_api(server, *texts, "max_new_tokens=4")
    assert set(read_cells(results.folder / "matrix.parquet", ["output"])["output"].to_pylist()) == {"2"}


def test_what_a_server_does_not_take_is_left_out(model, texts):
    """OpenAI's newer models take another name for the limit of an answer, and some servers take no seed."""

    def picky(number: int, body: dict) -> Fault | None:
        if "messages" not in body:
            return None
        if "seed" in body:
            return error(400, "Unrecognized request argument supplied: seed")
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        body["max_tokens"] = body["max_completion_tokens"]
        return None

    with served(model, gives=("chat",), fault=picky) as server:
        assert by_api(server, *texts, "max_new_tokens=4").served.protocol == "generation, from chat completions"


def test_answers_that_change_are_counted(model, own):
    calls = itertools.count()

    def drift(answer: dict) -> dict:
        likely = "A" if next(calls) < 2 + 3 * N else "B"  # of two tries and all cells, then of the sample
        for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            entry["logprob"] = -0.5 if entry["token"] == likely else -3.0
        return answer

    with served(model, listed=MANY, change=drift) as server:
        results = by_api(server, *own)
    again = results.served.repeated
    assert (again.cells, again.changed, again.largest_difference) == (16, 16, 2.5)
    line = "Asked for 16 renderings twice, the server answered 16 otherwise (100%); log-probabilities moved by up to 2.5"
    assert line in (results.folder / "report.html").read_text()


def test_a_server_that_is_busy_is_asked_again_when_it_says(model, own):
    refused: dict[str, float] = {}  # when, by the text
    waits: list[float] = []

    def busy(number: int, body: dict) -> Fault | None:
        text = body["messages"][0]["content"]
        if number < 2:  # tries
            return None
        if text not in refused:
            refused[text] = time.monotonic()
            return error(429, "slow down", retry_after="0.3") if number % 2 else error(503, "overloaded", retry_after="0.3")
        if len(waits) < 3 * N:  # then a sample is asked for twice
            waits.append(time.monotonic() - refused[text])
        return None

    with served(model, listed=MANY, fault=busy) as server:
        results = by_api(server, *own)
    assert results.served.retries == len(waits) == 3 * N and min(waits) >= 0.3


def test_a_server_that_dies_is_resumed_without_asking_again(model, own, monkeypatch):
    monkeypatch.setattr("paft.model.served.RETRIES", 1)
    slow = [*own, "model.api_requests=2"]
    with served(model, listed=MANY) as whole:
        expected = by_api(whole, *slow)
    dying: list[threading.Thread] = []

    def die(number: int, body: dict) -> Fault | None:
        if number == 14:
            dying.append(threading.Thread(target=server.close))
            dying[0].start()
        return Fault(half=True, body="{}") if number >= 14 else None

    server = TinyServer(model, listed=MANY, fault=die)
    with pytest.raises(InputError, match="what was answered is kept, and the same command resumes"):
        by_api(server, *slow)
    dying[0].join()
    with served(model, listed=MANY, port=server.port) as again:
        results = by_api(again, *slow)
        second = Counter(_asked(again.asked[2:-16]))
    first = Counter(_asked(server.asked[2:14]))
    assert not first & second and len(first + second) == 3 * N  # behind two tries each; then a sample is asked for twice
    assert_same(results, expected)
    assert results.served.requests >= 3 * N + 16 + 4 + 2


def _asked(bodies: list[dict]) -> list[str]:
    return [body["messages"][0]["content"] for body in bodies]


def test_a_killed_evaluation_asks_for_a_second_of_answers_again_at_most(model, own, monkeypatch):
    """Three answers take a second, so that of twelve at least eight are kept, however slow the machine is."""
    asked = ["model.name=tiny", "model.api_requests=1", *own]

    def slowly(number: int, body: dict) -> Fault | None:
        time.sleep(0.35)
        return None

    with served(model, listed=MANY, fault=slowly) as server:
        command = [sys.executable, str(Path(CONF).parent / "evaluate.py"), f"model.api={server.url}", *asked]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(server.asked) < 2 + 13 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.fault = lambda number, body: None
        before = len(server.asked)
        results = by_api(server, *asked[1:])
        assert 3 * N - 13 <= len(server.asked) - before - 2 - 16 <= 3 * N - 8
    assert len(results.scores()) == 3 * N and not list(results.folder.glob(".matrix-*"))


@pytest.mark.parametrize(
    ("answered", "name", "same"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o", True),
        ("gpt-4-0613", "gpt-4", True),
        ("models/gemini-2.0-flash-001", "gemini-2.0-flash", True),
        ("Mistral-Small-2503", "mistral-small-latest", True),
        ("llama3:latest", "llama3", True),
        ("/models/tiny.gguf", "tiny", True),
        ("Qwen2.5-0.5B-Instruct-Q4_K_M.gguf", "qwen2.5-0.5b-instruct", True),
        ("big-00001-of-00002.gguf", "big", True),
        ("command-r-08-2024", "command-r", True),
        ("gemini-2.5-flash-preview-05-20", "gemini-2.5-flash", True),
        ("gemini-2.0-flash-001@default", "gemini-2.0-flash", True),
        ("", "anything", True),
        (None, "anything", True),
        ("llama3:70b", "llama3:latest", False),
        ("gpt-4o", "gpt-4", False),
        ("qwen2.5", "qwen2.5-coder-0.5b-instruct", False),
        ("llama3.1-70b", "llama3", False),
        ("qwen2.5:0.5b", "qwen2.5:7b", False),
    ],
)
def test_names_of_one_model(answered, name, same):
    assert _same_name(answered, name) == same


SECRET = "sk-very-secret-key"
START = {
    "a key that is refused": (
        {"key": "sk-another"},
        [],
        "refuses the key of OPENAI_API_KEY (401: Incorrect API key provided: Bea",
    ),
    "another model": (
        {"change": lambda answer: answer | {"model": "other"}},
        [],
        "was asked for 'tiny' and answers as 'other'",
    ),
    "no such model": ({"name": "large"}, [], "model.name=tiny: %URL has no such model; it has large."),
    "nothing": ({"gives": ()}, [], "model.api: the server answers in no way: %URL answers 404 (Not Found)."),
    "no chats": ({"gives": ("completions",)}, ["model.chat_template=true"], "the server answers in no way: %URL answers 404"),
    "no likelihood": (
        {"gives": ("chat", "completions")},
        ["scoring=likelihood"],
        "scoring=likelihood: the server gives no log-probability of the answers: %URL gives no top_logprobs of the first",
    ),
}


@pytest.mark.parametrize("name", START)
def test_what_is_wrong_from_the_start_is_one_sentence_and_leaves_nothing(name, model, own, monkeypatch, tmp_path, capfd):
    switches, overrides, sentence = START[name]
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with served(model, **switches) as server, pytest.raises(InputError) as raised:
        by_api(server, *own, *overrides)
    said = f"error: {raised.value}\n"
    assert sentence.replace("%URL", server.url) in said and is_one_sentence(said), said
    assert not (tmp_path / "runs").exists()
    assert "secret" not in said + "".join(capfd.readouterr())


def test_an_address_without_v1_is_told_the_rest_of_it(model, own):
    with served(model) as server:
        address = server.url.removesuffix("/v1")
        with pytest.raises(InputError) as raised:
            run_evaluation(compose_evaluation(f"model.api={address}/", "model.name=tiny", *own))
    said = f"error: {raised.value}\n"
    assert f"try model.api={address}/v1." in said and "answers 404" in said and is_one_sentence(said), said


def test_a_server_that_wants_a_key_and_gets_none(model, own):
    with served(model, key="sk-another") as server, pytest.raises(InputError, match=r"wants a key \(401: .*set OPENAI_API_KEY"):
        by_api(server, *own)


def completion(**changes: object) -> str:
    log_probs = {"content": [{"token": "A", "logprob": -1, "top_logprobs": [{"token": "A", "logprob": -1}]}]}
    choice = {"index": 0, "message": {"content": "A"}, "finish_reason": "stop", "logprobs": log_probs}
    return json.dumps({"model": "tiny", "choices": [choice], "usage": None} | changes)


MIDWAY = {
    "no JSON": (Fault(200, completion()[:-9]), "answers with no completion ({"),
    "a web page": (
        Fault(200, "<html>Welcome</html>", {"content-type": "text/html"}),
        "with no completion (<html>Welcome</html>)",
    ),
    "other JSON": (Fault(200, "[1]"), "answers with no completion ([1])"),
    "no choices": (
        Fault(200, completion(choices=[])),
        "gives other choices than the one that was asked for (their numbers: none)",
    ),
    "other choices": (Fault(200, completion(choices=[{"index": 3, "text": "A"}])), "that was asked for (their numbers: 3)"),
    "another model": (Fault(200, completion(model="other")), "answers as 'other', and answered as 'tiny' before"),
    "no numbers": (Fault(200, completion().replace("-1", "NaN")), "gives log-probabilities that are none (NaN, or above 0)"),
    "half an answer": (Fault(200, completion(), half=True), "breaks off its answer"),
    "a limit for ever": (error(429, "slow down", retry_after="0.01"), "answers 429 (slow down)"),
    "an error for ever": (error(500, "CUDA error. Try again", retry_after="0.01"), "answers 500 (CUDA error; Try again)"),
    "a key that ends": (error(401, "expired"), "refuses the key of OPENAI_API_KEY (401: expired)"),
    "a text that is too long": (error(400, "maximum context length is 8"), ", under the prompt 'prompt-001': "),
}


RESUMED = {"no JSON", "half an answer", "a key that ends"}  # an answer that is none, one that breaks off, and a refusal


@pytest.mark.parametrize("name", MIDWAY)
def test_what_goes_wrong_midway_is_one_sentence_and_keeps_what_was_answered(name, model, own, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    if name == "half an answer":
        monkeypatch.setattr("paft.model.served.RETRIES", 0)  # otherwise it waits half a minute in all
    fault, sentence = MIDWAY[name]
    few = [*own, "model.api_requests=1", "model.chat_template=true"]
    with served(model, listed=MANY, fault=lambda number, body: fault if number >= 9 else None) as server:
        with pytest.raises(InputError) as raised:
            by_api(server, *few)
        said = f"error: {raised.value}\n"
        assert sentence in said and is_one_sentence(said) and "kept" in said, said
        assert sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("runs/*/.matrix-*/*.parquet")) == 7
        if name in RESUMED:  # what is asked again depends on what is kept alone
            server.fault = lambda number, body: None
            before = len(server.asked)
            results = by_api(server, *few)
            assert len(server.asked) - before == 2 + (3 * N - 7) + 16  # two tries, what was not answered, and the sample
            assert len(results.scores()) == 3 * N
    assert not _holds(tmp_path, b"secret") and "secret" not in said + "".join(capfd.readouterr())


def test_a_slow_server_is_waited_for_as_long_as_it_is_said(model, own, monkeypatch):
    slow = [*own, "model.api_timeout=8", "model.api_requests=1"]
    with served(model, listed=MANY, fault=lambda number, body: Fault(silent_s=60) if number >= 5 else None) as server:
        monkeypatch.setattr("paft.model.served.RETRIES", 0)
        with pytest.raises(
            InputError, match=r"did not answer within 8 s; raise model\.api_timeout or lower model\.api_requests"
        ):
            by_api(server, *slow)
        monkeypatch.setattr("paft.model.served.RETRIES", 10_000)  # of which none is waited for: only the time ends them
        monkeypatch.setattr("paft.model.served._PATIENCE", 0.25)
        server.fault = lambda number, body: error(500, "busy", retry_after="0.01") if number >= 5 else None
        server.asked.clear()
        with pytest.raises(InputError, match=r"gave no answer in 2 s of trying"):
            by_api(server, *slow)


def test_the_key_of_another_variable_goes_to_the_server_and_nowhere_else(model, own, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("MY_KEY", SECRET)
    with served(model, listed=MANY, key=SECRET) as server:
        results = by_api(server, *own, "model.api_key_env=MY_KEY", "model.price_in=1", "model.price_out=1")
        assert all(body["authorization"] == f"Bearer {SECRET}" for body in server.asked)
    assert results.config["model"]["api_key_env"] == "MY_KEY"
    assert not _holds(tmp_path, SECRET.encode()) and SECRET not in "".join(capfd.readouterr())


def test_settings_that_change_no_number_make_no_other_evaluation(own):
    base = ["model.api=http://localhost:1/v1", "model.name=tiny", *own]
    same = compose_evaluation(*base).identity()
    for change in ("api_requests=2", "api_timeout=3", "api_key_env=K", "+price_in=1 ; model.price_out=2"):
        overrides = [f"model.{change.removeprefix('+').split(' ; ')[0]}", *change.split(" ; ")[1:]]
        assert compose_evaluation(*base, *overrides).identity() == same
    for change in ("model.name=b", "model.api=http://localhost:2/v1", "scoring=generate", "model.chat_template=true"):
        assert compose_evaluation(*base, change).identity() != same
    assert compose_evaluation(*base, "model.api=http://localhost:1/v1/").identity() == same


def _holds(folder: Path, secret: bytes) -> bool:
    return any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())
