"""The fuzzer, for a few seconds."""

import pytest

from tests.reliability.fuzz import _kinds, fuzz

KINDS = _kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_crashes_hangs_or_is_misread(kind):
    share, strategy, check = KINDS[kind]
    assert 0 < fuzz(kind, 3 * share, strategy, check, number=0) <= 3 * share
