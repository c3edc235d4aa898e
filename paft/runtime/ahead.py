"""Work done ahead in a background thread, while this thread waits for a device or for torch."""

import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()
# Seconds after which a thread that computes lets another go on. At Python's 5 ms, a thread that launches kernels, and lets
# others go on with each, would wait for the background thread as long as the work ahead takes: nothing would be gained.
_SWITCH = 5e-4


def ahead(items: Iterator[T], n: int) -> Generator[T]:
    """Yield the items in their order; one background thread computes up to n of them ahead.

    An exception that computing an item raises arrives here, as it is, in the item's turn. Where this iterator is closed early
    (use contextlib.closing), the thread finishes the item that it is at, and is gone when closing returns.

    Args:
        items: iterated over by the background thread only.
        n: the most items that wait, at least 1.
    """
    usual = sys.getswitchinterval()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        try:
            sys.setswitchinterval(min(usual, _SWITCH))
            coming = deque(thread.submit(next, items, _END) for _ in range(n))
            while (item := coming.popleft().result()) is not _END:
                coming.append(thread.submit(next, items, _END))
                yield item  # type: ignore[misc]  # an item, because it is not the end
        finally:
            sys.setswitchinterval(usual)
            thread.shutdown(cancel_futures=True)
