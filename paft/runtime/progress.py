"""How far a long task is: a bar in a terminal, elsewhere a plain line a minute."""

import math
import sys
import time

from tqdm import tqdm

_LINE_S = 60.0  # seconds between two lines where there is no terminal


class Progress:
    """Shows on stderr how far a task is: by a bar in a terminal, by a plain line a minute elsewhere.

    Args:
        what: the task.
        unit: what is counted, in the plural.
        total: how many of them there are.
        done: how many of them earlier processes did.
        silent: show nothing.
    """

    def __init__(self, what: str, unit: str, total: int, done: int = 0, silent: bool = False) -> None:
        self.what, self.unit, self.total, self.done = what, unit, total, done
        self.done_before = done  # by earlier processes; these do not count for the speed
        self.note = ""  # what else to show
        self._started = time.monotonic()
        in_terminal = sys.stderr.isatty()
        self._next_line = math.inf if silent or in_terminal else self._started + _LINE_S
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            disable=silent or not in_terminal,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def update(self, n: int, left_s: float | None = None) -> None:
        """Count n more as done.

        Args:
            left_s: seconds that are left; None: as the speed so far says.
        """
        self.done += n
        now, done_here = time.monotonic(), self.done - self.done_before
        if left_s is None and done_here:
            left_s = (now - self._started) / done_here * (self.total - self.done)
        said = ", ".join(filter(None, [self.note, "" if left_s is None else f"{tqdm.format_interval(left_s)} left"]))
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.update(n)
        if now >= self._next_line:
            share = f"{self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
            print(", ".join(filter(None, [f"{self.what}: {share}", said])), file=sys.stderr, flush=True)
            self._next_line = now + _LINE_S

    def say(self, line: str) -> None:
        """Print a line to stdout, above the bar if there is one."""
        tqdm.write(line)
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
