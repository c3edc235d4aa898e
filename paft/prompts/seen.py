"""Test prompts that were trained on, word for word or nearly: by the criterion of `paft pools audit`."""

from collections.abc import Sequence
from dataclasses import dataclass

from paft.prompts.similarity import Copy, copies
from paft.prompts.template import PromptTemplate
from paft.runtime.errors import InputError


@dataclass(frozen=True)
class Seen:
    """The numbers of test prompts that were trained on: copies word for word, and near-copies, which are at least 90% alike.

    None where the training prompts are not at hand.
    """

    copies: int | None
    near_copies: int | None

    @property
    def total(self) -> int:
        """The number of test prompts that are known to have been trained on."""
        return (self.copies or 0) + (self.near_copies or 0)


UNKNOWN = Seen(None, None)


def check_unseen(
    tested: Sequence[PromptTemplate],
    of: Sequence[PromptTemplate],
    what: str,
    allowed: bool,
    n: int | None = None,
    key: str = "prompts.test",
) -> Seen:
    """Count the test prompts that are among other prompts, and refuse them.

    Args:
        tested: the whole test pool.
        of: the prompts that it should not hold.
        what: what was done with those, for the sentence.
        allowed: whether test prompts may be among them.
        n: how many test prompts are used, the first ones, which are those that are counted; None: all.
        key: the setting that names the test pool.

    Raises InputError that names two prompts, unless it is allowed.
    """
    found: dict[int, Copy] = {}
    for copy in copies([template.text for template in tested], [template.text for template in of]):
        if copy.template not in found or copy.kind == "copy":
            found[copy.template] = copy
    if found and not allowed:
        first = next(iter(found.values()))
        raise InputError(
            f"{key}: {len(found)} of {len(tested)} test prompts were {what}, word for word or nearly (at least 90% alike, "
            f"layout aside), e.g. {tested[first.template].id!r} as {of[first.of].id!r}; test on others, or say that it is "
            "wanted with prompts.allow_seen=true."
        )
    kinds = [copy.kind for copy in found.values() if n is None or copy.template < n]
    exact = kinds.count("copy")
    return Seen(exact, len(kinds) - exact)
