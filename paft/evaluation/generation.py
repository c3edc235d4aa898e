"""Scoring by generation: the model writes a text greedily, and the answer is read off it (paper, section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from paft.data.chat import REASONING, behind_reasoning
from paft.data.encode import Encoder
from paft.data.tasks.base import Example
from paft.evaluation.cells import Cell
from paft.evaluation.decoding import Continuing, Growing, StaticDecoder
from paft.evaluation.metrics import Metric, answered
from paft.evaluation.store import StoredCell
from paft.model.base import Model, window_of
from paft.model.graphs import Replayed
from paft.runtime.errors import InputError, first_sentence
from paft.runtime.memory import is_out_of_memory

MAX_NEW_TOKENS = 256  # as in OpenCompass


@dataclass(frozen=True)
class Stop:
    """The rule by which a text ends: at end-of-text, after max_new_tokens, or at the first line break after a word."""

    max_new_tokens: int
    at_line_break: bool


class Generation:
    """Answers cells with the text that the model writes.

    Where an example has choices, the first option's letter in the text is the prediction, or the first option's text where
    prompts ask for that. A text without any predicts -1, which is wrong. Free-form answers are compared by the metric.

    Args:
        graphs: on a GPU, replay the step from one token to the next as a CUDA graph.
    """

    def __init__(self, model: Model, encoder: Encoder, metric: Metric, stop: Stop, graphs: bool = False) -> None:
        self.model, self.encoder, self.metric, self.stop = model, encoder, metric, stop
        self._ends = end_ids(model, encoder)
        self._line_breaks: dict[int, bool] = {}  # whether a token holds one
        self.static: StaticDecoder | None = None
        if graphs and model.device.type == "cuda":
            if getattr(model, "_can_compile_fullgraph", False):
                self.static = StaticDecoder(model, lambda step: Replayed(step, tolerance=0.0, enough=3))
            else:
                self._without_static_cache("transformers does not compile it")
        self._reasoning = Reasoning(encoder.tokenizer, encoder.chat is not None and encoder.chat.opens_reasoning)

    def prepare(self, cells: Sequence[Cell]) -> list[list[int]]:
        """Return the contexts to continue; there is nothing else to make ready."""
        return [cell.encoded.context for cell in cells]

    def __call__(self, cells: Sequence[Cell], examples: Sequence[Example], prepared: list[list[int]]) -> list[StoredCell]:
        """Return a row of answer columns per cell.

        Args:
            examples: those of the cells, in their order.
            prepared: what `prepare` made of the cells.
        """
        texts = self.write(prepared)
        letters = self.encoder.answer == "letter"
        return [answered(example, text, n, letters, self.metric) for example, (text, n) in zip(examples, texts, strict=True)]

    @torch.no_grad()
    def write(self, contexts: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
        """Continue each context greedily; return the texts, each with its number of tokens (including the one that ended it).

        A text also ends where the model's window does. A reasoning block before the answer is left out; a text that ends inside
        of one is empty. Finished rows leave the batch, so that one long text does not cost the others computation.

        Raises InputError if the model's scores are NaN.
        """
        try:
            written = self._write(contexts)
        except InputError:
            raise
        except Exception as error:  # a model may do anything with a cache of another kind
            if self.static is None:
                raise
            if is_out_of_memory(error):
                self.static.forget()
                raise
            self._without_static_cache(f"{type(error).__name__}: {first_sentence(error)}")
            written = self._write(contexts)
        return [(self._answer(tokens), len(tokens)) for tokens in written]

    def _write(self, contexts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens that continue each context."""
        model, filler = self.model, self.encoder.tokenizer.eos_token_id
        longest = max(map(len, contexts))
        ids = torch.tensor([[filler] * (longest - len(c)) + list(c) for c in contexts], device=model.device)
        mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts], device=model.device)
        written: list[list[int]] = [[] for _ in contexts]
        window = window_of(model.config, longest + self.stop.max_new_tokens)
        limits = [min(self.stop.max_new_tokens, window - len(context)) for context in contexts]
        prompts = Growing(model, ids, mask)
        rows, tokens = list(range(len(contexts))), prompts.tokens.tolist()  # the context that each token continues
        going_on: Continuing = prompts if self.static is None else self.static.take_over(prompts, max(limits))
        del prompts  # a static cache has a copy
        while True:
            for row, token in zip(rows, tokens, strict=True):
                written[row].append(token)
            unfinished = [i for i, row in enumerate(rows) if not self._ended(written[row], limits[row])]
            if not unfinished:
                return written
            rows, tokens = [rows[i] for i in unfinished], going_on(unfinished)

    def _without_static_cache(self, why: str) -> None:
        self.static = None
        print(f"Generation: this model cannot take a static cache ({why}); its cache grows, which is slower and as right.")

    def _ended(self, written: list[int], limit: int) -> bool:
        if written[-1] in self._ends or len(written) >= limit:
            return True
        if not self.stop.at_line_break or not self._breaks_line(written[-1]):
            return False
        text = self._reasoning.behind(written)
        return text is not None and "\n" in text.lstrip()

    def _breaks_line(self, token: int) -> bool:
        if token not in self._line_breaks:
            self._line_breaks[token] = "\n" in self.encoder.tokenizer.decode([token])
        return self._line_breaks[token]

    def _answer(self, written: list[int]) -> str:
        """Return the text without its reasoning, up to the line break that ended it."""
        text = (self._reasoning.behind(written[:-1] if written[-1] in self._ends else written) or "").strip()
        return text.split("\n", 1)[0].rstrip() if self.stop.at_line_break else text


def take_several_lines(examples: Sequence[Example], metric: Metric) -> bool:
    """Return whether answers may take several lines, so that a line break does not end one.

    They may where the last number counts (GSM8K reasons over several lines), where a pattern finds the answer, and where right
    answers hold line breaks. What a model was trained on decides, because it writes what it has learnt, and so for the base
    model that a run is shown beside; for a base model that is evaluated by itself, what it is tested on.
    """
    return metric.looks_inside or any("\n" in answer.strip() for example in examples for answer in example.answers)


def end_ids(model: Model, encoder: Encoder) -> frozenset[int]:
    """Return every token that ends a text: the tokenizer's, the chat template's and all of the checkpoint's.

    A checkpoint may have several (generation_config.json: Llama 3, Gemma, Phi-3), of which its tokenizer names one.
    """
    ends = {encoder.tokenizer.eos_token_id, encoder.end_id}
    for config in (getattr(model, "generation_config", None), model.config.get_text_config()):
        of_checkpoint = getattr(config, "eos_token_id", None)
        ends |= set(of_checkpoint if isinstance(of_checkpoint, list | tuple) else [of_checkpoint])
    return frozenset(ends - {None})


class Reasoning:
    """Finds the reasoning block that a model may write before its answer.

    Args:
        opened: whether the prompt ends inside such a block.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, opened: bool) -> None:
        vocabulary = tokenizer.get_vocab()
        self._tokenizer, self._opened = tokenizer, opened
        self._openings, self._closings = (
            {vocabulary[marks[side]] for marks in REASONING if marks[side] in vocabulary} for side in (0, 1)
        )

    def behind(self, written: list[int]) -> str | None:
        """Return the text behind the reasoning block, the whole text where there is none; None while a block is open."""
        closed = max((i for i, token in enumerate(written) if token in self._closings), default=None)
        if closed is None and not self._openings.isdisjoint(written):
            return None
        tokens = written if closed is None else written[closed + 1 :]
        (text,) = self._tokenizer.batch_decode([tokens], skip_special_tokens=True)
        behind = behind_reasoning(text)  # where a mark is several tokens
        return None if behind == text and self._opened and closed is None else behind
