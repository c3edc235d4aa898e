"""A causal LM on this machine that answers chat messages, for the local generator."""

from collections.abc import Mapping, Sequence

import torch
from transformers import AutoModelForCausalLM

from paft.model.base import window_of
from paft.model.embeddings import load_pretrained
from paft.runtime.errors import InputError


class Writer:
    """A causal LM and its tokenizer.

    Args:
        path: a hub id, a folder or a GGUF file; `embedded` is the model that comes with the project.

    Raises InputError if they cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._tokenizer, self._model = load_pretrained(AutoModelForCausalLM, path, "auto")

    def write(
        self, messages: Sequence[Mapping[str, str]], seed: int, temperature: float, max_tokens: int
    ) -> tuple[str, int, int, bool]:
        """Answer chat messages; return the text, the numbers of tokens read and written, and whether the text is complete.

        Args:
            seed: of the sampling.
            temperature: 0 is greedy.
            max_tokens: after which the text is cut off.

        Raises InputError if the model's window does not hold the messages.
        """
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            inputs = self._tokenizer(text, return_tensors="pt")
        else:
            inputs = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        inputs = inputs.to(self._model.device)
        read = inputs["input_ids"].shape[1]
        room = min(max_tokens, window_of(self._model.config, read + max_tokens) - read)
        if room < 1:
            raise InputError(
                f"{self._path}: the request has {read} tokens, which this model's window does not hold; use another model."
            )
        torch.manual_seed(seed)
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.no_grad():
            output = self._model.generate(**inputs, **sampling, max_new_tokens=room, pad_token_id=self._tokenizer.eos_token_id)
        written = output[0, read:]
        return self._tokenizer.decode(written, skip_special_tokens=True), read, len(written), len(written) < room
