"""A causal LM that answers chat messages: a local generator of prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paft.errors import InputError
from paft.quiet import quieten


class Writer:
    """A model and its tokenizer; raises InputError if they cannot be loaded.

    Args:
        path: a hub id or a folder; `embedded` is the model that comes with the project.
    """

    def __init__(self, path: str) -> None:
        from paft.model.embedded import smollm2_folder

        quieten()
        where = smollm2_folder() if path == "embedded" else path
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(where)
            model: Any = AutoModelForCausalLM.from_pretrained(where, dtype="auto")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: this is no causal LM that transformers can load ({type(error).__name__}).") from None
        self._model = model.to(device).eval()

    def write(
        self, messages: Sequence[Mapping[str, str]], seed: int, temperature: float, max_tokens: int
    ) -> tuple[str, int, int]:
        """Answer messages; returns the text and the number of tokens read and written."""
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            inputs = self._tokenizer(text, return_tensors="pt")
        else:
            inputs = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        inputs = inputs.to(self._model.device)
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.no_grad():
            output = self._model.generate(**inputs, **how, max_new_tokens=max_tokens, pad_token_id=self._tokenizer.eos_token_id)
        read = inputs["input_ids"].shape[1]
        written = output[0, read:]
        return self._tokenizer.decode(written, skip_special_tokens=True), read, len(written)
