"""Screening: what is kept, what is not and why; near-copies by the letters alone."""

import time
import tracemalloc
from collections.abc import Iterator

import pytest

from paft.pools.screening import Candidate, judge, screen
from paft.prompts.pool import Form
from paft.prompts.similarity import wording

FORM = Form(frozenset({"question"}), frozenset({"A", "B"}), "letter")
HIDDEN = Form(frozenset({"question"}), frozenset({"A", "B"}), "text", "hidden")
FREE = Form(frozenset({"question"}), frozenset(), "text")
PLAIN = "Question: {question}\nA. {A}\nB. {B}\nAnswer:"

KEPT = [
    PLAIN,
    "{question} (A) {A} (B) {B} =>",
    'Here is a puzzle: {question}\nIs it "{A}" [A] or "{B}" [B]? Do not explain your choice.\nLetter:',
    "{question}\nA: {A}\nB: {B}\nIf I had to choose between the two, I would without any doubt say",
    "{question}\n1) {A}\n2) {B}\nThe number: ......",
    '{{"q": "{question}", "options": {{"A": "{A}", "B": "{B}"}}, "answer": "',
    "质问：{question}\nA. {A}\nB. {B}\n答案：",
    "سؤال: {question}\nA. {A}\nB. {B}\nالجواب:",
    "❓ {question}\n🅰 {A}\n🅱 {B}\n👉",
    "<q>{question}</q>\n<a>{A}</a>\n<b>{B}</b>\n<answer>",
    "| {question} | {A} | {B} |",
    "प्रश्न: {question}\nA. {A}\nB. {B}\nउत्तर:",
]

REJECTED = [
    ("", "malformed", "the template is empty"),
    ("Question: {question!r} {A} {B}\nAnswer:", "malformed", "is no placeholder"),
    (r"Question: {question}\nA. {A}\nB. {B}\nAnswer:", "malformed", "literal backslash-n"),
    ("Question: {question}\x07 {A} {B}\nAnswer:", "malformed", "control character U+0007"),
    ("Question: {question}\nA. {A}\nAnswer:", "fields", "lacks {B}"),
    ("{question} {A} {B} {topic}\nAnswer:", "fields", "{topic} is no field of the task"),
    ("{question} {A} {B} Again: {question}\nAnswer:", "fields", "holds {question} more than once"),
    ("Question: {question}\nA. {A}\nB. {B}", "no cue", "it ends in a field"),
    ("A. {A}\nB. {B}\nQuestion: {question}", "no cue", "it ends in a field"),
    ("{question}\nA. {A}\nB. {B}\nChoose the right answer.", "no cue", "a finished sentence"),
    ("{question}\nA. {A}\nB. {B}\n" + "so " * 50 + "it is", "no cue", "too long for a cue"),
    ("word " * 60 + PLAIN, "too long", "64 words, at most 50"),
    ("." * 700 + PLAIN, "too long", "characters, at most 600"),
    ('{question} A: "{A}" B: "{B}"', "no cue", "it ends in a field"),
    ("<q>{question}</q> <b>{A}</b> <b>{B}</b>", "no cue", "it ends in a field"),
    (PLAIN[:-1] + " is option B", "gives the answer away", "it ends in"),
    (PLAIN + " **A**", "gives the answer away", "it ends in"),
    ("Q: Is it wet? A. yes B. no Answer: A\n" + PLAIN, "gives the answer away", "it holds an answer"),
    ("Which of these is wrong?\n" + PLAIN, "review", "'is wrong'"),
    ("As an expert in [insert topic], answer.\n" + PLAIN, "brackets", "'[insert topic]'"),
    ("Dear <your name>,\n" + PLAIN, "brackets", "'<your name>'"),
    (PLAIN + " B", "gives the answer away", "it ends in 'Answer: B'"),
    (PLAIN + " (A)", "gives the answer away", "it ends in 'Answer: (A)'"),
    ("{question} {A} or {B}? The correct answer is {A}\nAnswer:", "fields", "holds {A} more than once"),
    ("{question} The correct answer is {A} and not {B}.\nAnswer:", "gives the answer away", "names one option as right"),
    ("Explain your thinking. " + PLAIN, "review", "'Explain'"),
    ("What is the tone of this?\n" + PLAIN, "review", "'tone'"),
    ("Summarise, then answer.\n" + PLAIN, "review", "'Summarise'"),
]


@pytest.mark.parametrize(
    "text", ["[" + "a" * 100_000, "[_" * 50_000, "<insert " * 20_000, "{question}\n" * 20_000, "answer is " * 20_000]
)
def test_a_degenerate_text_is_judged_at_once(text):
    started = time.process_time()  # of this process alone, whatever else the machine does
    assert judge(text, FORM, 200).reason is not None
    assert time.process_time() - started < 20  # a pattern that backtracks takes hours


@pytest.mark.parametrize("text", KEPT)
def test_a_good_template_is_kept(text):
    assert judge(text, FORM, 50).reason is None


@pytest.mark.parametrize(("text", "reason", "detail"), REJECTED)
def test_a_bad_one_is_rejected_with_its_reason(text, reason, detail):
    verdict = judge(text, FORM, 50)
    assert verdict.reason == reason and detail in verdict.detail


def test_what_may_end_a_template_depends_on_what_follows_it():
    assert judge("Answer this: {question}", HIDDEN, 50).reason is None  # the answer continues it
    assert judge("Think about {question}\nWrite out your reasoning, then the number.", FREE, 50).reason is None
    assert judge("{question} {A}", HIDDEN, 50).reason == "fields"  # it shows an option


def candidates(*texts: str) -> Iterator[Candidate]:
    return (Candidate(text, f"c{i}", "model") for i, text in enumerate(texts))


def test_wording_is_the_letters_alone():
    assert wording("Q1: What's {question}?\n(A) {A}") == wording("q, WHAT s [{x}]\n- a") == "q what s a"
    assert wording("Größe: {x} 你好") == "größe 你好"


def test_near_copies_are_rejected_whatever_their_fields_and_layout():
    first = "Please choose the answer that fits the question best: {question} A. {A} B. {B} Answer:"
    copy = "PLEASE, choose the answers that fit the question best!\n{question}\n(A) {A}\n(B) {B}\nAnswer ="
    other = "Which of the two would you pick for {question}? Either A, {A}, or B, {B}. I pick"
    verdicts = [verdict for _, verdict in screen(candidates(first, copy, other, first), FORM, 50)]
    assert [verdict.reason for verdict in verdicts] == [None, "near-copy", None, "near-copy"]
    assert verdicts[1].detail.endswith("% like c0") and verdicts[3].detail == "100% like c0"
    (verdict,) = [verdict for _, verdict in screen(candidates(first), FORM, 50, kept=[copy])]
    assert verdict.reason == "near-copy" and verdict.detail.endswith("like a prompt of the pool")


def test_what_was_rejected_makes_no_near_copies():
    broken = "Please choose the answer that fits the question best: {question} A. {A} Answer:"
    whole = "Please choose the answer that fits the question best: {question} A. {A} B. {B} Answer:"
    assert [verdict.reason for _, verdict in screen(candidates(broken, whole), FORM, 50)] == ["fields", None]


def test_memory_does_not_grow_with_the_candidates():
    def many(n: int) -> Iterator[Candidate]:
        return (Candidate(f"{PLAIN} {i} {'x' * (i % 7)}:", f"c{i}", "model") for i in range(n))

    peaks = []
    for n in (500, 5000):
        tracemalloc.start()
        for _ in screen(many(n), FORM, 50):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 50_000
