"""Event files for TensorBoard, written from what each stage left: `tensorboard --logdir <run>/tensorboard`.

Files: tensorboard/<model>/events.out.tfevents.<stage>, and tensorboard/<stage>.manifest.json.
"""

import tempfile
import time
from itertools import groupby
from pathlib import Path

from kd_ray.config import Config
from kd_ray.rundir import Manifest, RunDir
from kd_ray.series import OF_STAGE, Series

FOLDER = "tensorboard"


def write(config: Config, run: RunDir, stage: str, fingerprint: str) -> None:
    """Write the event files of a finished stage, unless they are there. Raises ManifestError, StorageError."""
    commit = f"{FOLDER}/{stage}.manifest.json"
    if stage not in OF_STAGE or run.finished(commit, fingerprint):
        return
    run.remove(commit)
    for path in run.sizes(FOLDER):
        if path.endswith(f".{stage}"):
            run.remove(path)
    by_model = groupby(sorted(OF_STAGE[stage](config, run), key=lambda series: series.model), lambda one: one.model)
    files = [
        run.write_bytes(f"{FOLDER}/{model}/events.out.tfevents.{stage}", events(list(of_model)))
        for model, of_model in by_model
    ]
    run.commit(commit, Manifest(fingerprint=fingerprint, files=files, summary={}))


def events(every: list[Series]) -> bytes:
    """Return an event file's content."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import scalar

    now = time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events")
        writer = RecordWriter(str(path))
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for one in every:
            for step, value in zip(one.steps, one.values, strict=True):
                event = Event(wall_time=now, step=step, summary=scalar(one.name, value))
                writer.write(event.SerializeToString())
        writer.close()
        return path.read_bytes()
