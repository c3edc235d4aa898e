"""From renderings to tokens: what is trained on, where prompt and answer meet, what is cut off."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from paft.data.batch import Update
from paft.data.chat import Chat, ChatSettings
from paft.data.datamodule import Renderings
from paft.data.encode import Encoder
from paft.data.tasks import BUILT_IN
from paft.data.tasks.base import Example
from paft.data.tasks.story_facts import generate_rows
from paft.data.updates import Tagged
from paft.prompts import PromptPool, PromptTemplate, load_pool, shipped_pool_path
from paft.prompts.schedule import Draw
from paft.runtime.errors import InputError
from tests.conftest import InTurn

TASK = BUILT_IN["story_facts"]
STORIES = [TASK.example("here", row, f"{i}", "story_facts") for i, row in enumerate(generate_rows("train", 12))]
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def with_begin(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that puts begin-of-text in front, as Llama's does."""
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    begin = [("<begin>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<begin> $A", special_tokens=begin)
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return tokenizer


def template(text: str) -> PromptTemplate:
    return PromptTemplate(text, id="t")


def free(answer: str, **fields: str) -> Example:
    return Example("0", fields, (), -1, answer, "0", "mine")


def shipped(answer: str) -> PromptPool:
    path = shipped_pool_path("story_facts", answer, "shown", "train")
    return load_pool(path, TASK.form(answer, "shown"))


def sequences(update: Update) -> list[tuple[list[int], list[int], list[int]]]:
    """Take an update apart: per packed sequence, its input tokens, where it predicts (from 0) and what."""
    found = []
    for batch in update.micro_batches:
        ids, offsets = batch.packing.input_ids[0].tolist(), batch.packing.position_ids[0].tolist()
        starts = [*(i for i, offset in enumerate(offsets) if offset == 0), len(ids)]
        pairs = list(zip(batch.positions.tolist(), batch.targets.tolist(), strict=True))
        for start, end in pairwise(starts):
            own = [(position - start, target) for position, target in pairs if start <= position < end]
            if own:  # else it is the filler at the row's end
                found.append((ids[start:end], [p for p, _ in own], [t for _, t in own]))
    assert sum(len(own) for *_, own in found) == update.n_targets
    return found


# Training: the answer and end-of-text, and nothing else.


@pytest.mark.parametrize("answer", ["letter", "text"])
@pytest.mark.parametrize("budget", [1, 400, 100_000])
def test_the_answer_and_end_of_text_are_the_targets(tokenizer, answer, budget):
    pool, encoder = shipped(answer), Encoder(tokenizer, answer, cutoff=1024)
    drawn = [(5 * row) % len(pool.templates) for row in range(12)]
    tagged = [Tagged(row, i, Draw(0, i)) for row, i in enumerate(drawn)]
    update = Renderings(STORIES, InTurn(pool, 0), encoder, budget)[tagged]
    assert (update.n_truncated, update.templates) == (0, [t.template for t in tagged])
    expected = {}
    for tag in tagged:
        prompt, example = pool.templates[tag.template].render(STORIES[tag.row].fields), STORIES[tag.row]
        right = "ABCD"[example.gold] if answer == "letter" else example.choices[example.gold]
        expected[prompt.rstrip()] = (prompt[len(prompt.rstrip()) :] or " ") + right
    found = sequences(update)
    assert len(found) == 12
    for ids, positions, targets in found:
        context = tokenizer.decode(ids[: positions[0] + 1])
        assert tokenizer.decode(targets) == expected.pop(context) + "<end>"
        assert targets[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids
        # Each target follows its position; end-of-text itself is never read.
        assert positions == list(range(positions[0], len(ids)))
        assert targets[:-1] == ids[positions[0] + 1 :]
    assert not expected
    assert update.n_targets == sum(len(targets) for *_, targets in found)
    assert update.n_tokens == sum(len(ids) + 1 for ids, *_ in found)


def test_free_form_answers_are_trained_on_whole(tokenizer):
    encoder = Encoder(tokenizer, "text", cutoff=1024)
    encoded = encoder.training(template("{q}\nAnswer:"), free("3 + 4 = 7\n#### 7", q="Was ist 3 + 4? 你好"))
    assert tokenizer.decode(encoded.continuations[0]) == " 3 + 4 = 7\n#### 7<end>"
    assert encoder.scoring(template("{q}"), free("7", q="How many?")).continuations == []


def test_scoring_has_every_choice_and_no_end_of_text(tokenizer):
    for answer in ("letter", "text"):
        encoder, example = Encoder(tokenizer, answer, cutoff=1024), STORIES[0]
        encoded = encoder.scoring(template("{story} {question}\nAnswer:"), example)
        wanted = ["A", "B", "C", "D"] if answer == "letter" else list(example.choices)
        assert encoder.answers(example) == wanted
        assert [tokenizer.decode(c) for c in encoded.continuations] == [f" {text}" for text in wanted]
        trained = encoder.training(template("{story} {question}\nAnswer:"), example)
        assert trained.context == encoded.context
        assert trained.continuations == [[*encoded.continuations[example.gold], tokenizer.eos_token_id]]


@pytest.mark.parametrize("space", [None, True, False, "chat"])
def test_the_tokens_of_answers_are_counted_as_they_are_scored(tokenizer, space):
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}<assistant>\n"
    )
    own = {"chat": Chat(tokenizer, ChatSettings())} if space == "chat" else {"space": space}
    encoder = Encoder(tokenizer, "text", cutoff=1024, **own)
    scored = encoder.scoring(template("{story} {question} {A} {B} {C} {D} Answer:"), STORIES[0])
    assert encoder.answer_tokens(STORIES[:1]) == [[len(tokens) for tokens in scored.continuations]]


def test_two_options_have_two_letters(tokenizer):
    example = replace(STORIES[0], choices=("yes", "no"), gold=1)
    assert Encoder(tokenizer, "letter", cutoff=1024).answers(example) == ["A", "B"]


# The boundary.


@pytest.mark.parametrize(
    ("end", "space"), [("", " "), (" ", " "), ("\n", "\n"), ("\n\n  ", "\n\n  "), ("\t", "\t"), ("\nOption ", " "), (" (", " ")]
)
def test_white_space_at_the_end_belongs_to_the_answer(tokenizer, end, space):
    encoder, example = Encoder(tokenizer, "text", cutoff=1024), STORIES[0]
    prompt = f"{example.fields['question']}\nAnswer:{end}"
    for encoded in (
        encoder.training(template("{question}\nAnswer:" + end), example),
        encoder.scoring(template("{question}\nAnswer:" + end), example),
    ):
        assert tokenizer.decode(encoded.context) == prompt.rstrip()
        assert all(tokenizer.decode(c).startswith(space) for c in encoded.continuations)
    assert tokenizer.decode(encoded.continuations[example.gold]) == space + example.answer


def test_white_space_of_a_value_moves_too(tokenizer):
    encoded = Encoder(tokenizer, "text", cutoff=1024).training(template("{q}"), free("yes", q="Is it? \n"))
    assert (tokenizer.decode(encoded.context), tokenizer.decode(encoded.continuations[0])) == ("Is it?", " \nyes<end>")


@pytest.mark.parametrize("answer", ["letter", "text"])
def test_context_and_continuation_make_the_whole_text(tokenizer, answer):
    encoder = Encoder(tokenizer, answer, cutoff=1024)
    for number, one in enumerate(shipped(answer).templates):
        example = STORIES[number % 12]
        prompt = one.render(example.fields)
        space = prompt[len(prompt.rstrip()) :] or " "
        encoded = encoder.scoring(one, example)
        for text, continuation in zip(encoder.answers(example), encoded.continuations, strict=True):
            whole = prompt.rstrip() + space + text
            assert tokenizer.decode(encoded.context + continuation) == whole
            assert encoded.context + continuation == tokenizer(whole).input_ids  # as if nobody had divided it


def test_an_answer_that_would_merge_into_the_prompt_is_tokenised_alone(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # ends where the prompt ends, without a blank
    encoder = Encoder(tokenizer, "text", cutoff=1024, chat=Chat(tokenizer, ChatSettings()))
    context, answer = "The answer: Answ", "er: it is in the barn"
    alone = tokenizer(answer, add_special_tokens=False).input_ids
    ids, whole = tokenizer(context).input_ids, tokenizer(context + answer).input_ids
    assert whole[: len(ids)] != ids and len(whole) > len(ids)  # they merge
    encoded = encoder.training(template("{q}"), free(answer, q=context))
    assert encoded.context == ids
    assert encoded.continuations == [[*alone, tokenizer.eos_token_id]]


def test_begin_of_text_comes_first_and_once(with_begin):
    encoder, begin = Encoder(with_begin, "text", cutoff=1024), with_begin.bos_token_id
    encoded = encoder.training(template("{story} {question}"), STORIES[0])
    assert encoded.context[0] == begin
    assert (encoded.context + encoded.continuations[0]).count(begin) == 1


def test_a_prompt_of_nothing_still_has_a_token_that_predicts_the_answer(tokenizer):
    encoder = Encoder(tokenizer, "text", cutoff=1024)
    assert encoder.training(template("{q}"), free("yes", q=" \n")).context == [tokenizer.eos_token_id]


# The cut-off.


def cut(encoder: Encoder, cutoff: int) -> Encoder:
    return Encoder(encoder.tokenizer, encoder.answer, cutoff, encoder.chat)


def fits(encoded_context: Sequence[int], continuations: Sequence[Sequence[int]], cutoff: int) -> bool:
    return len(encoded_context) + max(map(len, continuations)) == cutoff


def test_a_long_prompt_loses_its_beginning_and_never_its_answer(tokenizer):
    whole, one, example = Encoder(tokenizer, "text", cutoff=1024), template("{story}\n{question}\nAnswer:"), STORIES[0]
    full = whole.training(one, example)
    exact = len(full.context) + len(full.continuations[0])
    assert cut(whole, exact).training(one, example) == full and not full.truncated
    for cutoff in range(len(full.continuations[0]) + 1, exact):
        short = cut(whole, cutoff).training(one, example)
        assert short.truncated and short.continuations == full.continuations
        assert fits(short.context, short.continuations, cutoff)
        assert short.context == full.context[-len(short.context) :]


def test_scoring_leaves_room_for_the_longest_choice(tokenizer):
    whole, one = Encoder(tokenizer, "text", cutoff=1024), template("{story}\n{question}\nAnswer:")
    example = replace(STORIES[0], choices=("the hall", "a very long answer of many unusual words", "x", "the attic"))
    full = whole.scoring(one, example)
    cutoff = max(map(len, full.continuations)) + len(full.context) // 2
    short = cut(whole, cutoff).scoring(one, example)
    assert short.truncated and short.continuations == full.continuations
    assert fits(short.context, short.continuations, cutoff)
    assert short.context == full.context[-len(short.context) :]


def test_begin_of_text_survives_the_cut(with_begin):
    whole, one = Encoder(with_begin, "text", cutoff=1024), template("{story}\n{question}\nAnswer:")
    full = whole.training(one, STORIES[0])
    short = cut(whole, 20).training(one, STORIES[0])
    assert short.truncated and short.context[0] == with_begin.bos_token_id
    assert fits(short.context, short.continuations, 20)
    assert short.context[1:] == full.context[-len(short.context) + 1 :]


def test_cut_prompts_of_free_form_answers_leave_room_to_generate(tokenizer):
    encoded = Encoder(tokenizer, "text", cutoff=10).scoring(template("{q}"), free("7", q="one two three " * 20))
    assert encoded.truncated and len(encoded.context) == 9


def test_an_update_counts_the_prompts_that_were_cut(tokenizer):
    pool = PromptPool("p", (template("{story}\n{question}\nAnswer:"), template("{question}\nAnswer:")), "text", "shown")
    encoder = Encoder(tokenizer, "text", cutoff=30)
    update = Renderings(STORIES, InTurn(pool, 0), encoder, 1000)[[Tagged(i, i % 2, Draw(0, i % 2)) for i in range(12)]]
    assert update.n_truncated == 6
    assert max(len(ids) + 1 for ids, *_ in sequences(update)) == 30
    answers = {f" {example.answer}<end>" for example in STORIES}
    assert {tokenizer.decode(targets) for *_, targets in sequences(update)} == answers


def test_a_cutoff_shorter_than_the_answer_is_refused(tokenizer):
    one, example = template("{question}\nAnswer:"), STORIES[0]
    length = len(Encoder(tokenizer, "text", cutoff=1024).training(one, example).continuations[0])
    with pytest.raises(InputError, match=rf"cutoff={length} "):
        Encoder(tokenizer, "text", cutoff=length).training(one, example)
    assert len(Encoder(tokenizer, "text", cutoff=length + 1).training(one, example).context) == 1


def test_a_cutoff_is_checked_before_anything_is_encoded(tokenizer):
    long = replace(STORIES[3], choices=("the hall", "an answer " * 20, "x", "y"), where="mine.jsonl, line 4")
    examples = [*STORIES[:3], long, free("yes " * 5, q="q")]
    Encoder(tokenizer, "text", cutoff=1024).check([], examples)
    Encoder(tokenizer, "letter", cutoff=30).check([], examples)
    with pytest.raises(InputError, match=r"mine\.jsonl, line 4: an answer has (\d+) tokens, .*; set cutoff above \1\."):
        Encoder(tokenizer, "text", cutoff=30).check([], examples)
    with pytest.raises(InputError, match="an answer has"):
        Encoder(tokenizer, "letter", cutoff=5).check([], [free("yes " * 5, q="q")])


def test_the_smallest_cutoff_that_passes_the_check_is_enough(tokenizer):
    for example in (STORIES[0], free("twelve and a half", q="How many?")):
        for cutoff in range(1, 30):
            encoder = Encoder(tokenizer, "text", cutoff)
            try:
                encoder.check([], [example])
            except InputError:
                continue
            encoded = encoder.training(template("Say it: {q}" if not example.choices else "{question}"), example)
            assert len(encoded.context) + len(encoded.continuations[0]) <= cutoff
            break
        else:
            pytest.fail("no cutoff passed the check")


# The chat template.


def test_a_chat_template_wraps_the_prompt(tokenizer):
    tokenizer.chat_template = CHAT
    example = STORIES[0]
    question = example.fields["question"]
    one = template("{question}\n")  # its white space is the template's business
    plain = Encoder(tokenizer, "text", 1024, Chat(tokenizer, ChatSettings())).training(one, example)
    assert tokenizer.decode(plain.context) == f"<user>{question}\n</user>\n<assistant>"
    assert tokenizer.decode(plain.continuations[0]) == f"{example.answer}<end>"
    system = Encoder(tokenizer, "text", 1024, Chat(tokenizer, ChatSettings("Be {brief}.")))
    for encoded in (system.training(one, example), system.scoring(one, example)):
        start = "<system>Be {brief}.</system>\n<user>"
        assert tokenizer.decode(encoded.context) == f"{start}{question}\n</user>\n<assistant>"
    assert [tokenizer.decode(c) for c in encoded.continuations] == list(example.choices)


def test_a_chat_template_writes_its_own_special_tokens(with_begin):
    with_begin.chat_template = "{{ bos_token }}" + CHAT
    encoded = Encoder(with_begin, "text", 1024, Chat(with_begin, ChatSettings())).training(template("{question}"), STORIES[0])
    begin = with_begin.bos_token_id
    assert encoded.context[0] == begin and (encoded.context + encoded.continuations[0]).count(begin) == 1
    with_begin.chat_template = CHAT
    encoded = Encoder(with_begin, "text", 1024, Chat(with_begin, ChatSettings())).training(template("{question}"), STORIES[0])
    assert begin not in encoded.context


def test_without_chat_template_a_tokenizer_that_has_one_is_used_plainly(tokenizer):
    tokenizer.chat_template = CHAT
    encoded = Encoder(tokenizer, "text", 1024).training(template("{question}"), STORIES[0])
    assert tokenizer.decode(encoded.context) == STORIES[0].fields["question"]


def test_a_tokenizer_without_what_is_asked_for_is_refused(tokenizer):
    with pytest.raises(InputError, match="this tokenizer has no chat template; set it to false"):
        Chat(tokenizer, ChatSettings())
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        Encoder(tokenizer, "text", 1024)


# What tokenizers do besides.


@pytest.fixture
def with_end(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that puts end-of-text behind every text, as one saved with add_eos_token does."""
    end = [("<end>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <end>", special_tokens=end)
    assert tokenizer("a").input_ids[-1] == tokenizer.eos_token_id
    return tokenizer


def test_special_tokens_behind_a_text_are_left_out(tiny_llama, with_end):
    plain, one = AutoTokenizer.from_pretrained(tiny_llama), template("{story}\n{question}\nAnswer:")
    expected, encoder = Encoder(plain, "text", 1024), Encoder(with_end, "text", 1024)
    for example in STORIES:
        assert encoder.scoring(one, example) == expected.scoring(one, example)
        assert encoder.training(one, example) == expected.training(one, example)
    empty = encoder.scoring(template("{q}"), free("yes", q=" "))
    assert empty.context == [with_end.eos_token_id]  # which is not taken for a text here


def test_both_ends_of_a_text(tokenizer):
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    special = [("<begin>", tokenizer.bos_token_id), ("<end>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<begin> $A <end>", special_tokens=special)
    encoded = Encoder(tokenizer, "text", 1024).scoring(template("{q}"), free("yes", q="Is it?"))
    assert tokenizer.decode(encoded.context) == "<begin>Is it?"


def test_a_tokenizer_that_draws_its_tokens_is_refused(tokenizer):
    tokenizer.backend_tokenizer.model.dropout = 0.1
    with pytest.raises(InputError, match="draws its tokens at random"):
        Encoder(tokenizer, "text", 1024)


@pytest.mark.parametrize(
    ("prompt", "answer", "space", "continuation"),
    [
        ("Answer:", "yes", None, " yes"),
        ("答案：", "是", None, "是"),
        ("答案：", "A", None, "A"),  # a full-width colon needs no space
        ("答案", "A", None, "A"),
        ("Answer in Chinese:", "是", None, "是"),
        ("คำตอบ", "ใช่", None, "ใช่"),
        ("답:", "네", None, " 네"),  # Korean has spaces
        ("答案：", "是", True, " 是"),
        ("Answer:", "yes", False, "yes"),
        ("Answer: ", "yes", False, " yes"),  # the prompt's own
        ("答案：\n", "是", None, "\n是"),
    ],
)
def test_a_space_comes_before_an_answer_where_the_script_has_it(tokenizer, prompt, answer, space, continuation):
    encoder = Encoder(tokenizer, "text", 1024, space=space)
    encoded = encoder.training(PromptTemplate(prompt + "{q}", id="t"), free(answer, q=""))
    assert tokenizer.decode(encoded.continuations[0]) == continuation + "<end>"


def test_tokens_beyond_the_embeddings_are_found_before_anything_is_encoded(tokenizer):
    n = len(tokenizer)
    tokenizer.add_tokens(["candle"])
    encoder = Encoder(tokenizer, "text", 1024, vocabulary=n)
    encoder.check([template("{q}")], STORIES)
    with pytest.raises(InputError, match=r"The prompt 't' holds 'candle', a token .* no embedding"):
        encoder.check([template("Light the candle: {q}")], STORIES)
    with pytest.raises(InputError, match=r"mine, line 3: the row holds 'candle'"):
        encoder.check([template("{q}")], [replace(free("yes", q="a candle"), where="mine, line 3")])
    Encoder(tokenizer, "text", 1024, vocabulary=n + 1).check([template("Light the candle: {q}")], STORIES)
    with pytest.raises(InputError, match="do not belong together"):
        Encoder(tokenizer, "text", 1024, vocabulary=n - 5)


def test_the_fingerprint_is_that_of_the_tokenizer_and_its_template(tiny_llama, tokenizer, with_begin):
    again = Encoder(AutoTokenizer.from_pretrained(tiny_llama), "text", 1024)
    assert again.fingerprint == Encoder(AutoTokenizer.from_pretrained(tiny_llama), "letter", 30).fingerprint
    assert Encoder(with_begin, "text", 1024).fingerprint != again.fingerprint
    chat = AutoTokenizer.from_pretrained(tiny_llama)
    chat.chat_template = CHAT
    assert Encoder(chat, "text", 1024).fingerprint == again.fingerprint  # it is not used
    assert Encoder(chat, "text", 1024, Chat(chat, ChatSettings())).fingerprint != again.fingerprint
