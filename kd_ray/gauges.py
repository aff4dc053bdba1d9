"""How far a run is, as metrics at Ray's Prometheus endpoint: what the stages report, seen on its way to the screen.

Ray puts `ray_` before the names; every metric has the tag `run`.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kd_ray.judging import evaluation_of
from kd_ray.progress import Progress, Report
from kd_ray.rundir import RunDir
from kd_ray.session import Session

DONE = {
    "teachers": ("kd_ray_teachers_done", "Teachers trained; one under way counts by its share."),
    "soft_targets": ("kd_ray_rows_labelled", "Rows of the transfer set that have soft targets."),
    "student": ("kd_ray_student_epochs", "Epochs that the student was trained for."),
}
LOSS = ("kd_ray_student_loss", "The student's training loss in its last epoch, mean over replicas.")
RECOVERED = ("kd_ray_recovered", "Share of the ensemble's edge that the student has, by metric.")
REFRESH_SECONDS = 5.0
_LOSS_SAID = re.compile(r"\bloss ([-+.\deE]+)")


class Gauges:
    """A Progress that passes everything on, and sets gauges where Ray is started; use it as a context.

    Ray forgets a gauge that was not set for 20 seconds: all are set again until the context ends.
    """

    def __init__(self, shown: Progress, session: Session, run: RunDir) -> None:
        self._shown, self._session, self._run = shown, session, run
        self._gauges: dict[str, Any] = {}
        self._last: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._refresher = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> "Gauges":
        self._refresher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._refresher.join(REFRESH_SECONDS)

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            with self._lock:
                for (name, _), (value, tags) in self._last.items():
                    self._gauges[name].set(value, tags)

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        with self._shown.stage(name) as shown:

            def report(done: float, total: float, note: str) -> None:
                shown(done, total, note)
                if name in DONE:
                    self._set(DONE[name], done)
                if name == "student" and (loss := _LOSS_SAID.search(note)):
                    self._set(LOSS, float(loss[1]))

            yield report
        if name == "evaluation":
            self._recovered()

    def skip(self, name: str) -> None:
        self._shown.skip(name)

    def note(self, text: str) -> None:
        self._shown.note(text)

    def _recovered(self) -> None:
        for metric, found in evaluation_of(self._run)["recovered"].items():
            if found["value"] is not None:
                self._set(RECOVERED, found["value"], metric=metric)

    def _set(self, named: tuple[str, str], value: float, **tags: str) -> None:
        if not self._session.started:
            return
        from ray.util.metrics import Gauge

        (name, about), tags = named, {"run": self._run.name, **tags}
        with self._lock:
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, about, tag_keys=tuple(tags))
            self._gauges[name].set(value, tags)
            self._last[name, str(tags)] = value, tags
