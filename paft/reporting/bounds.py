"""The bounds of fail_under: whether a result is at least as good as the command asks for, for a CI."""

from paft.config.schema import FailUnderConfig
from paft.evaluation.tail import cvar
from paft.reporting.results import Results
from paft.runtime.errors import BelowBoundError

_EQUAL = 1e-9  # percent; values that differ by no more are equal
_SHOWN = 60  # characters of a prompt


def check_bounds(bounds: FailUnderConfig, results: Results) -> None:
    """Raise BelowBoundError, which names the values, their bounds and the worst prompt, if a result is below a bound.

    Args:
        bounds: percent; a value that equals its bound is not below it.
        results: of rows with labels.
    """
    robust = results.robustness
    if not bounds.bounds or robust is None:
        return
    prompts, called = results.per_prompt(), results.scoring.called
    cvar10 = float(cvar(prompts[called].to_numpy(dtype=float), 0.1))
    values = {"mean": robust.mean, "worst": robust.min, "cvar10": cvar10}
    missed = [
        f"{name} {100 * values[name]:.2f} is below fail_under.{name}={bound:g}"
        for name, bound in bounds.bounds.items()
        if 100 * values[name] < bound - _EQUAL
    ]
    if missed:
        worst = prompts.iloc[0]
        text = " ".join(str(worst["text"]).split())
        shown = f"{text[:_SHOWN]}..." if len(text) > _SHOWN else text
        raise BelowBoundError(
            f"{', '.join(missed)}; the worst prompt is {worst['prompt_id']} ({100 * worst[called]:.1f}): {shown!r}.",
            results,
        )
