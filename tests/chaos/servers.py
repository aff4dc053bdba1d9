"""S3-compatible servers on loopback, each in an environment of its own, and their content without pyarrow."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BUCKET = "runs"
KEY, SECRET = "chaos-key-id", "a-secret-that-nobody-may-print"
PROGRAMS = {"ministack": "s3/bin/ministack", "moto": "moto/bin/moto_server"}
START_SECONDS = 60
_S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def program(kind: str) -> Path:
    """Return the server's program: beside this interpreter's environment, or under CHAOS_SERVERS."""
    return Path(os.environ.get("CHAOS_SERVERS", sys.prefix)) / PROGRAMS[kind]


def is_there(kind: str) -> bool:
    return program(kind).exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
    }


@dataclass
class Server:
    """ministack keeps what it has on disk and can be killed and started again; moto has it in memory."""

    kind: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = os.environ | {
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.folder / "data"),
            "SERVICES": "s3",
        }
        words = ["-H", "127.0.0.1", "-p", str(self.port)] if self.kind == "moto" else []
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(self.kind), *words], env=env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._ask("PUT", f"/{BUCKET}")
                return
            except OSError as error:
                if "409" in str(error):
                    return
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.kind} does not answer: {(self.folder / 'server.log').read_text()}"
                    ) from error
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def names(self, prefix: str) -> list[str]:
        """Names of all objects under a prefix."""
        found: list[str] = []
        token = ""
        while True:
            query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
            page = ET.fromstring(self._ask("GET", f"/{BUCKET}?{urllib.parse.urlencode(query)}"))
            found += [str(key.text) for key in page.iter(f"{_S3}Key")]
            token = page.findtext(f"{_S3}NextContinuationToken") or ""
            if not token:
                return found

    def get(self, name: str) -> bytes:
        return self._ask("GET", f"/{BUCKET}/{urllib.parse.quote(name)}")

    def mirror(self, prefix: str, folder: Path) -> Path:
        """Copy all objects under a prefix to a folder."""
        for name in self.names(f"{prefix}/"):
            path = folder / name[len(prefix) + 1 :]
            if not name.endswith("/"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.get(name))
        return folder

    def upload(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = urllib.parse.quote(f"{prefix}/{path.relative_to(folder)}")
                self._ask("PUT", f"/{BUCKET}/{name}", path.read_bytes())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, data=body)
        with direct.open(request, timeout=20) as reply:
            return bytes(reply.read())


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(kind, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
