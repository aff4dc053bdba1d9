"""What a killed labelling is taken up from."""

from pathlib import Path

import pytest

from kd_ray import journal
from kd_ray.journal import Journal
from kd_ray.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.at(str(tmp_path), "x")


def with_files(run: RunDir, count: int) -> Journal:
    begun = Journal.open(run, "f", 100)
    for number in range(count):
        record = run.write_bytes(f"soft_targets/{number:05d}.parquet", bytes([number] * 10), rows=100)
        begun.add(number, record, {"train": 60, "noise": 40})
    begun.write()
    return begun


def test_what_is_entered_is_taken_up_with_the_cut_it_was_made_by(run: RunDir) -> None:
    begun = with_files(run, 3)
    again = Journal.open(run, "f", 7)
    assert again.rows_per_file == 100
    assert again.records == begun.records
    assert again.rows == {"train": 180, "noise": 120}


def test_another_fingerprint_begins_in_an_empty_folder(run: RunDir) -> None:
    with_files(run, 3)
    again = Journal.open(run, "g", 7)
    assert (again.rows_per_file, again.records) == (7, {})
    assert list(run.sizes("soft_targets")) == [journal.FILE]


def test_a_file_that_is_short_or_gone_is_labelled_again(run: RunDir) -> None:
    with_files(run, 3)
    Path(run.path("soft_targets/00000.parquet")).unlink()
    Path(run.path("soft_targets/00001.parquet")).write_bytes(b"short")
    assert set(Journal.open(run, "f", 100).records) == {2}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"{}", b'{"fingerprint": "f", "rows_per_file": 0, "files": []}', b"\xff"]
)
def test_a_damaged_journal_is_not_believed(run: RunDir, damage: bytes) -> None:
    with_files(run, 2)
    Path(run.path(journal.FILE)).write_bytes(damage)
    assert Journal.open(run, "f", 50).records == {}


def test_the_journal_lies_there_before_the_first_file(run: RunDir) -> None:
    Journal.open(run, "f", 9)
    assert Journal.open(run, "f", 100).rows_per_file == 9


def test_files_of_one_second_are_written_down_together(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    begun = Journal.open(run, "f", 100)
    monkeypatch.setattr(Journal, "write", lambda self: writes.append(len(self.records)))
    begun._due = float("inf")
    record = run.write_bytes("soft_targets/00000.parquet", b"x", rows=1)
    begun.add(0, record, {"train": 1})
    assert writes == []
    begun._due = 0.0
    begun.add(1, record, {"train": 1})
    assert writes == [2]
