"""Which files of the soft targets are written: what a killed labelling is taken up from, each row labelled once.

soft_targets/progress.json holds how the transfer set is cut and the record of each file that is whole. It begins before
the first file is written, so that whatever lies there is either in it or written over; it goes when the manifest comes.
"""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from kd_ray.errors import KdRayError
from kd_ray.rundir import FileRecord, RunDir

FOLDER = "soft_targets"
FILE = f"{FOLDER}/progress.json"
SECONDS = 1.0  # between two writes, or as much longer as SHARE wants
SHARE = 20


@dataclass(kw_only=True)
class Journal:
    """`fingerprint` stands for the rows and for the ensemble that labels them, weight for weight."""

    run: RunDir
    fingerprint: str
    rows_per_file: int
    records: dict[int, FileRecord] = field(default_factory=dict)
    origins: dict[int, dict[str, int]] = field(default_factory=dict)
    _due: float = 0.0

    @classmethod
    def open(cls, run: RunDir, fingerprint: str, rows_per_file: int) -> "Journal":
        """Take up what was labelled under this fingerprint, cut as it was; else begin anew in an empty folder."""
        if (found := cls._earlier(run, fingerprint)) is not None:
            return found
        run.remove(FOLDER)
        journal = cls(run=run, fingerprint=fingerprint, rows_per_file=rows_per_file)
        journal.write()
        return journal

    @classmethod
    def _earlier(cls, run: RunDir, fingerprint: str) -> "Journal | None":
        if not run.exists(FILE):
            return None
        with suppress(KdRayError, KeyError, TypeError, AttributeError, ValueError):
            value, sizes = run.read_json(FILE), run.sizes(FOLDER)
            journal = cls(run=run, fingerprint=value["fingerprint"], rows_per_file=int(value["rows_per_file"]))
            for entry in value["files"]:
                record = FileRecord(**entry["record"])
                if sizes.get(record.path) == record.bytes:
                    journal._enter(int(entry["number"]), record, entry["origins"])
            return journal if journal.fingerprint == fingerprint and journal.rows_per_file >= 1 else None
        return None

    @property
    def rows(self) -> Counter[str]:
        """Rows labelled so far of each origin."""
        total: Counter[str] = Counter()
        for counts in self.origins.values():
            total.update(counts)
        return total

    def add(self, number: int, record: FileRecord, origins: dict[str, int]) -> None:
        """Enter a file that is written; it is on the disk with those of the last second, or at the next `write`."""
        self._enter(number, record, origins)
        if time.monotonic() >= self._due:
            self.write()

    def _enter(self, number: int, record: FileRecord, origins: dict[str, int]) -> None:
        self.records[number], self.origins[number] = record, dict(origins)

    def write(self) -> None:
        begun = time.monotonic()
        self.run.write_sealed(FILE, self._to_json())
        now = time.monotonic()
        self._due = now + max(SECONDS, SHARE * (now - begun))

    def _to_json(self) -> dict[str, Any]:
        files = [
            {"number": number, "record": asdict(record), "origins": self.origins[number]}
            for number, record in sorted(self.records.items())
        ]
        return {"fingerprint": self.fingerprint, "rows_per_file": self.rows_per_file, "files": files}

    def close(self) -> None:
        """Remove it: the stage's manifest says all it said."""
        self.run.remove(FILE)
