"""A share of ``python -m tests.mutated``: damaged files end in a sentence or in something whole."""

import random
import sys

import pytest

from tests import mutated
from tests.mutated import READERS, damaged, run


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer of the processor's time")
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_end_in_a_sentence_or_in_something_whole(reader: str) -> None:
    found = run(reader, 60, seed=1)
    assert found.wrong == []
    assert found.refused >= 15 and found.refused + found.repaired + found.read == 60
    assert found.read + found.repaired >= 3


def test_damage_is_the_same_every_time_and_differs_from_file_to_file() -> None:
    content = bytes(range(256)) * 4
    found = [damaged(content, ".ply", random.Random(number)) for number in range(20)]
    assert found == [damaged(content, ".ply", random.Random(number)) for number in range(20)]
    assert len(set(found)) >= 18


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer of the processor's time")
def test_another_error_and_an_endless_reader_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise IndexError("list index out of range")

    def endless(path: object) -> None:
        while True:
            pass

    monkeypatch.setattr(mutated, "read_start", broken)
    assert len(run("ply points", 3, seed=0).wrong) == 3
    monkeypatch.setattr(mutated, "read_start", endless)
    monkeypatch.setattr(mutated, "LIMIT", 0.05)
    (story,) = run("ply points", 1, seed=0).wrong
    assert "more than 0.05 seconds" in story
    monkeypatch.setattr(mutated, "read_start", lambda path: None)
    assert len(run("ply points", 2, seed=0).wrong) == 2
