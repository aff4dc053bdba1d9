"""The driver killed, asked to end, interrupted, at random moments over a whole run."""

import signal
import time
from collections import Counter
from statistics import median

from tests.chaos.harness import Place, Row, Started, complaints, resumed, stage_of

EXIT_SECONDS = 10


def driver(place: Place) -> list[Row]:
    """SIGKILL: nothing of ours runs any more, and Ray must notice by itself. Every second run is taken up at once."""
    row, reference = Row("driver", "SIGKILL of the driver, then resumed"), place.reference
    count, stages, gone = place.times(50), Counter[str](), []
    for i in range(count):
        moment = (i + place.random("driver", i).random()) / count * reference.seconds
        with place.scratch("driver") as storage:
            started = Started.run(reference.config, storage)
            started.wait_until(started.begun + moment)
            started.send(signal.SIGKILL)
            started.process.wait()
            stages[stage_of(started.said())] += 1
            problems = complaints(started.said())
            if i % 2:
                problems += resumed(reference, storage)
            left, seconds = started.left()
            gone.append(seconds)
            if not i % 2:
                problems += resumed(reference, storage)
            row.add(f"moment {i} of {count} ({moment:.2f} s)", problems + left)
    waited = gone[::2]
    row.notes = f"processes gone after {median(waited):.1f} s, at most {max(waited):.1f}; {_counts(stages)}"
    return [row]


def signals(place: Place) -> list[Row]:
    """SIGTERM to the driver, and Ctrl-C as a terminal sends it: to the whole process group."""
    reference, rows = place.reference, []
    for signum, group in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        row = Row("signals", f"{signum.name}, then resumed")
        count, stages, ends = place.times(20), Counter[str](), []
        for i in range(count):
            moment = (i + place.random("signals", signum, i).random()) / count * reference.seconds
            with place.scratch("signals") as storage:
                started = Started.run(reference.config, storage)
                problems = []
                if started.wait_until(started.begun + moment):
                    stages[stage_of(started.said())] += 1
                    sent = time.monotonic()
                    started.send(signum, group=group)
                    code = started.wait(120)
                    ends.append(time.monotonic() - sent)
                    problems += _ending(code, started.said(), ends[-1])
                left, _ = started.left()
                problems += left + complaints(started.said()) + resumed(reference, storage)
                row.add(f"moment {i} of {count} ({moment:.2f} s)", problems)
        if ends:
            row.notes = f"exit after {median(ends):.1f} s, at most {max(ends):.1f}; {_counts(stages)}"
        rows.append(row)
    return rows


def _ending(code: int, said: str, seconds: float) -> list[str]:
    found = []
    if code == 0 and "files: " in said:
        return []  # it had finished just then
    if seconds > EXIT_SECONDS:
        found.append(f"took {seconds:.1f} s to end")
    if code != 130 and not (code in (-2, -15) and not said):  # before Python could say how it ends
        found.append(f"exit code {code}: {said[-200:]!r}")
    return found


def _counts(stages: Counter[str]) -> str:
    return ", ".join(f"{stage} {n}" for stage, n in stages.items())
