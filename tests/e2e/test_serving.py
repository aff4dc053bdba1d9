"""The two serving examples, answering real HTTP requests on loopback."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd_ray import load_student

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(*command: str, port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block ends, and its whole process group with it."""
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | (env or {}), start_new_session=True)
    try:
        for _ in range(240):
            assert server.poll() is None, "the server ended"
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield
    finally:
        server.terminate()
        server.wait(timeout=60)


def asked(port: int, body: Any) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(body).encode())
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503):  # Serve's proxy listens before the replicas are there
                raise
            time.sleep(0.5)
    raise AssertionError("no answer")


ROWS = np.random.default_rng(4).normal(size=(3, 20))


def test_onnxruntime_and_the_standard_library_serve_the_file(made: str) -> None:
    port, file = free_port(), f"{made}/export/student.onnx"
    with running(sys.executable, "examples/serve_onnx.py", file, str(port), port=port):
        said = asked(port, {"numeric": ROWS.tolist()})
    student: Any = load_student(made)
    np.testing.assert_allclose(said, student.predict_proba(ROWS), atol=1e-6)


def test_ray_serve_serves_the_run(made: str) -> None:
    pytest.importorskip("starlette", reason='ray[serve], which pip install "ray[serve]" brings')
    port = free_port()
    script = Path(__file__).with_name("serve_locally.py")
    with running(sys.executable, str(script), str(port), port=port, env={"RUN": made}):
        said = asked(port, [{f"x{d}": value for d, value in enumerate(row)} for row in ROWS])
    student: Any = load_student(made)
    np.testing.assert_allclose([[row["0"], row["1"]] for row in said], student.predict_proba(ROWS), atol=1e-6)
