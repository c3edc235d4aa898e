"""Embeddings of a template's words, moved to where the loss is higher: adversarial training one step deep.

As FreeLB (https://arxiv.org/abs/1909.11764) and LAP (latent adversarial paraphrasing), on the tokens of the template alone.
"""

from types import TracebackType

import torch
from torch import Tensor, nn

from paft.model.base import Model


class ShiftedEmbeddings:
    """While it is open, a vector is added to each embedding that the model reads: zero until `move`."""

    def __init__(self, model: Model) -> None:
        embeddings = model.get_input_embeddings()
        assert isinstance(embeddings, nn.Module)
        self._handle = embeddings.register_forward_hook(self._shifted)
        self._shift: Tensor | None = None  # (1, N, D), in the dtype of the embeddings
        self._lengths: Tensor | None = None  # (1, N, 1) fp32, of the embeddings

    def _shifted(self, _: nn.Module, __: object, embedded: Tensor) -> Tensor:
        if self._shift is None:
            self._shift = torch.zeros_like(embedded, requires_grad=True)
            self._lengths = embedded.detach().float().norm(dim=-1, keepdim=True)
        return embedded + self._shift

    def move(self, size: Tensor, where: Tensor) -> None:
        """Move embeddings along the gradient that the last backward pass gave them.

        Args:
            size: scalar; of an embedding's own length, by how much it is moved.
            where: (1, N) bool, which are.
        """
        assert self._shift is not None and self._shift.grad is not None and self._lengths is not None
        gradient = self._shift.grad.float()
        # By its largest component first, because squares of small numbers vanish; a zero stays a zero.
        gradient = gradient / gradient.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        unit = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(0.5)
        self._shift = (size * self._lengths * unit * where[..., None]).to(self._shift.dtype)

    def __enter__(self) -> "ShiftedEmbeddings":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.remove()
