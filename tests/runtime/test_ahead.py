"""Work ahead in a thread: order, bound, errors, and that nothing is left behind."""

import sys
import threading
import time
from contextlib import closing

import pytest

from paft.runtime.ahead import ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_items_come_in_order_from_one_other_thread_and_are_bounded():
    made, by = [], set()

    def items():
        for item in range(20):
            made.append(item)
            by.add(threading.get_ident())
            yield item

    usual, found = sys.getswitchinterval(), []
    for item in ahead(items(), 3):
        time.sleep(0.001)
        assert len(made) <= len(found) + 1 + 3
        found.append(item)
    assert found == list(range(20)) and len(by) == 1 and threading.get_ident() not in by
    assert not threads() and sys.getswitchinterval() == usual
    assert list(ahead(iter(()), 3)) == []


@pytest.mark.parametrize("error", [ValueError("as it is"), KeyboardInterrupt()])
def test_an_error_arrives_in_its_turn_and_as_it_is(error):
    def items():
        yield 1
        yield 2
        raise error

    found = []
    with pytest.raises(type(error)) as raised:
        for item in ahead(items(), 4):
            found.append(item)
    assert raised.value is error and found == [1, 2]
    assert not threads()


def test_nothing_is_left_of_an_iteration_that_is_given_up():
    made = []

    def items():
        while True:
            made.append(time.sleep(0.001))
            yield len(made)

    usual = sys.getswitchinterval()
    with pytest.raises(KeyboardInterrupt), closing(ahead(items(), 2)) as coming:
        for item in coming:
            if item == 3:
                raise KeyboardInterrupt
    assert not threads() and len(made) <= 6 and sys.getswitchinterval() == usual
