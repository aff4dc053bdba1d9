"""Object stores: one put of a whole object, and one that fails where there is an object already.

pyarrow.fs reads them; it cannot put only where nothing is, nor drop a write that failed half-way. obstore does both,
for S3, its like, and Google Cloud Storage. Other stores of pyarrow's are written without these guards.
"""

import datetime
import os
import urllib.parse
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.fs as pafs

SECONDS = 120.0


@dataclass(frozen=True)
class Objects:
    """A bucket's objects. `uri` is of anything in it; paths are those of its pyarrow filesystem: bucket/key."""

    uri: str
    filesystem: pafs.FileSystem
    seconds: float = SECONDS
    """After which a put that is tried again and again is given up."""

    def put(self, path: str, content: bytes) -> None:
        """Write an object whole. Raises OSError."""
        if self._store is None:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        self._put(path, content, "overwrite")

    def create(self, path: str, content: bytes) -> bool:
        """Write an object that is not there yet, whole; return False where it is. Raises OSError."""
        from obstore.exceptions import AlreadyExistsError

        if self._store is None:
            if self.filesystem.get_file_info(path).type != pafs.FileType.NotFound:
                return False
            self.put(path, content)
            return True
        try:
            self._put(path, content, "create")
        except AlreadyExistsError:
            return False
        return True

    def _put(self, path: str, content: bytes, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            # In parts only what is large: a put in parts is no put where nothing is.
            obstore.put(self._store, path.partition("/")[2], content, mode=mode, use_multipart=_in_parts(content, mode))
        except AlreadyExistsError:
            raise
        except BaseError as error:
            raise OSError(_says(error)) from None

    @cached_property
    def _store(self) -> Any:
        from obstore.store import GCSStore, S3Store

        parts = urllib.parse.urlsplit(self.uri)
        limits: Any = {"timeout": f"{self.seconds:.0f}s", "connect_timeout": "10s"}
        retry: Any = {"max_retries": 8, "retry_timeout": datetime.timedelta(seconds=self.seconds)}
        if parts.scheme in ("gs", "gcs"):
            return GCSStore(parts.netloc, client_options=limits, retry_config=retry)
        if parts.scheme != "s3":
            return None
        endpoint = _endpoint(dict(urllib.parse.parse_qsl(parts.query)))
        config: Any = {"region": self.filesystem.region, **({"endpoint": endpoint} if endpoint else {})}
        options: Any = {**limits, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
        return S3Store(parts.netloc, config=config, client_options=options, retry_config=retry)


def _in_parts(content: bytes, mode: str) -> bool:
    return mode == "overwrite" and len(content) > 64 << 20


def _endpoint(query: dict[str, str]) -> str | None:
    """Where pyarrow finds the store: in the URI, else in the environment; None is AWS itself."""
    named = query.get("endpoint_override")
    if named:
        return named if "://" in named else f"{query.get('scheme', 'https')}://{named}"
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _says(error: Exception) -> str:
    line = str(error).strip().splitlines()[0][:300]
    if "credential" in line.lower() or "169.254." in line:
        line += (
            "; writing takes credentials from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            'AWS_SESSION_TOKEN) or from the machine\'s role: eval "$(aws configure export-credentials --format env)"'
        )
    return line
