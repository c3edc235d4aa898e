"""What a soak judges, on samples that are made up: the real ones take an hour (tests/reliability/soak.py)."""

import pytest

from tests.reliability.soak import _MIB, _MOST_FILES, _RUNS, Sample, Soaked, draw, page

EVERY = 40  # samples of a run: training, then an evaluation


def flat(moment: int) -> dict[str, int]:
    """What is seen of a sweep that leaks nothing, once the first run has loaded everything."""
    done, into = divmod(moment, EVERY)
    training = into < EVERY - 10
    warm = min(moment, 8) * 10 * _MIB  # what is loaded once stays
    return {
        "runs_trained": done + (not training),
        "runs_done": done,
        "memory": 400 * _MIB + warm,
        "children_memory": 50 * _MIB if training else 0,
        "children": 2 if training else 0,
        "descriptors": 20 + 10 * (moment % 3 == 0),  # a file that happens to be open
        "threads": 5,
        "checkpoint_files": 3,
        "checkpoint_bytes": 3000,
        "log_bytes": 100 * moment,
        "output_bytes": 10_000 + 100 * moment,
        "temporary_files": 0,
    }


def soaked(left=(1000, 1000, 1000), temporary_files_left=0, **grows) -> Soaked:
    """A sweep whose named series grow by so much a sample."""
    samples = []
    for moment in range(EVERY * _RUNS):
        seen = flat(moment)
        samples.append(Sample(float(moment), **seen | {name: int(seen[name] + by * moment) for name, by in grows.items()}))
    return Soaked(2, 100, samples, list(left), temporary_files_left)


def test_a_flat_series_passes():
    assert soaked().wrong() == []
    assert soaked(left=(1000, 1040, 1000)).wrong() == []  # within the five percent
    assert soaked(memory=0.1 * _MIB, threads=0.05).wrong() == []


@pytest.mark.parametrize(
    ("series", "by", "named"),
    [
        ("memory", 2 * _MIB, {"memory within a run", "memory between runs"}),
        ("children_memory", 2 * _MIB, {"memory of the workers within a run", "memory of the workers between runs"}),
        ("descriptors", 1, {"descriptors within a run", "descriptors between runs"}),
        ("descriptors", 0.1, {"descriptors between runs"}),  # a handle every ten updates: seen after more of them
        ("threads", 1, {"threads within a run", "threads between runs"}),
    ],
)
def test_a_series_that_grows_is_named(series, by, named):
    grown = soaked(**{series: by}).wrong()
    assert {
        sentence.split(" grew by ")[0].removeprefix("With 2 loader workers ") + where(sentence) for sentence in grown
    } == named


def where(sentence: str) -> str:
    return next(f" {name}" for name in ("within a run", "between runs") if sentence.endswith(f"{name}."))


def test_what_lies_on_the_disk_is_judged():
    (many,) = soaked(checkpoint_files=0.1).wrong()
    assert f"never be more than {_MOST_FILES}" in many
    (unlike,) = soaked(left=(1000, 1000, 1100)).wrong()
    assert "from 1,000 to 1,100 bytes" in unlike
    (temporary,) = soaked(temporary_files_left=3).wrong()
    assert "3 temporary files" in temporary


def test_page_and_figure(tmp_path):
    sweeps = [soaked(), soaked(descriptors=1)]
    wrong = [sentence for sweep in sweeps for sentence in sweep.wrong()]
    text = page(sweeps, 60, wrong)
    rows = [line.count("|") for line in text.splitlines() if line.startswith("| 2 |")]
    assert rows == [9] * 4 + [7] * 2 and all(sentence in text for sentence in wrong)
    draw(sweeps, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes()[:4] == b"\x89PNG"
