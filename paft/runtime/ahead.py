"""Work done ahead in a background thread, while this thread waits for a device or for torch."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()


def ahead(items: Iterator[T], n: int) -> Generator[T]:
    """Yield the items in their order; one background thread computes up to n of them ahead.

    An exception that computing an item raises arrives here, as it is, in the item's turn. Where this iterator is closed early
    (use contextlib.closing), the thread finishes the item that it is at, and is gone when closing returns.

    Args:
        items: iterated over by the background thread only.
        n: the most items that wait, at least 1.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        try:
            coming = deque(thread.submit(next, items, _END) for _ in range(n))
            while (item := coming.popleft().result()) is not _END:
                coming.append(thread.submit(next, items, _END))
                yield item  # type: ignore[misc]  # an item, because it is not the end
        finally:
            thread.shutdown(cancel_futures=True)
