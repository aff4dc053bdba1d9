"""A job on a cluster, seen from outside: submitted once, followed, stopped, its log read. Over Ray's Jobs API."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from kd_ray import joining
from kd_ray.errors import ConfigError, KdRayError, ResourceError, UserError
from kd_ray.reach import addresses_of, check_closed

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
REQUEST_SECONDS = 10.0
QUIET_SECONDS = 30.0  # without a word of the log, after which the job is asked how it is
LOST_SECONDS = 60.0  # without an answer, after which a cluster is taken for gone
STOP_SECONDS = 20.0
_ENVIRONMENT = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client takes them before the address that it is given

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to submit. `mark` stands for what it does: a job of the same id and another mark is another job."""

    id: str
    mark: str
    entrypoint: str
    archive: Path
    environment: dict[str, str] = field(default_factory=dict)


class _Bounded(JobSubmissionClient):
    """Ray's client waits for ever on a host that never answers."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", REQUEST_SECONDS)
        if is_loopback(urlsplit(self._address).hostname or ""):
            options["proxies"] = {"http": None, "https": None}
        return super()._do_request(method, endpoint, **options)


class Cluster:
    """A cluster's Jobs API at a URL. Every call ends within a bounded time; raises ResourceError or UserError."""

    def __init__(self, address: str) -> None:
        self.url = address if "://" in address else f"http://{address}"
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--address: must be the URL of a Jobs API, such as {DEFAULT_ADDRESS}; got {address!r}")
        check_closed(parts.hostname, has_token=joining.has_token())
        addresses_of(parts.hostname)
        for module in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
        with self._asking(), _without(_ENVIRONMENT):
            self._client = _Bounded(self.url)
        self._check_version(self._client._server_ray_version)

    def _check_version(self, version: str) -> None:
        joining.check_safe(version)
        if not joining.OLDEST_RAY <= joining.number(version) < joining.BEYOND_RAY:
            raise ResourceError(
                f"--address: the cluster at {self.url} runs Ray {version}; kd_ray needs {joining.SUPPORTED}"
            )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Say plainly why the Jobs API does not do what it is asked for."""
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            wants = "wants another token" if "failed" in str(error).split(":")[0] else "wants a token"
            raise ResourceError(
                f"--address: the cluster at {self.url} {wants}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as it was "
                "started"
            ) from None
        except requests.exceptions.Timeout:
            raise ResourceError(f"--address: {self.url} gave no answer in {REQUEST_SECONDS:g} s") from None
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors
            cause = error.__context__ or error
            raise ResourceError(
                f"--address: no Jobs API answers at {self.url}: {_reason(cause)}; is the cluster running, and is this "
                "its dashboard's address?"
            ) from None

    def find(self, job: str) -> JobDetails | None:
        """Return what is known of a job, None where there is none."""
        with self._asking():
            reply = self._client._do_request("GET", f"/api/jobs/{job}")
            if reply.status_code == 404:
                return None
            if reply.status_code != 200:
                raise ResourceError(f"{self.url}: says of job {job}: {reply.status_code} {reply.text.strip()[-200:]}")
            return JobDetails(**reply.json())

    def submit(self, job: Job) -> tuple[str, JobDetails | None]:
        """Submit a job, or a new attempt where earlier ones failed. Return the attempt's id and what was there before.

        A job that is under way or has succeeded is not submitted again. Raises ConfigError where the id is taken.
        """
        for attempt in range(1, 1000):
            name = job.id if attempt == 1 else f"{job.id}-{attempt}"
            there = self.find(name)
            if there is None and self._submit(name, job):
                return name, None
            there = there or self.find(name)
            if there is not None and (there.metadata or {}).get("kd_ray") != job.mark:
                raise ConfigError(f"--submission-id: {name} is a job that does something else; choose another id")
            if there is not None and there.status not in (JobStatus.FAILED, JobStatus.STOPPED):
                return name, there
        raise ResourceError(f"--submission-id: {job.id} was attempted 999 times; choose another id")

    def _submit(self, name: str, job: Job) -> bool:
        """Submit one attempt; return False where another process has just taken its name."""
        environment = {"working_dir": str(job.archive), "env_vars": job.environment}
        with self._asking():
            try:
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=name,
                    runtime_env=environment,
                    metadata={"kd_ray": job.mark},
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise ResourceError(f"{self.url}: does not take the job: {_reason(error)}") from None
        return True

    def follow(self, name: str, tell: Tell) -> JobDetails:
        """Hand on a job's log, line by line, until it has ended, and return what is known of it then."""
        asyncio.run(self._follow(name, tell))
        found = self.find(name)
        if found is None:
            raise ResourceError(f"{self.url}: job {name} is no longer there; was the cluster started again?")
        return found

    async def _follow(self, name: str, tell: Tell) -> None:
        lines, heard = _Lines(tell), time.monotonic()
        while True:
            lines.begin()
            # The connection may break, or nothing be said for long: what counts is what is known of the job then.
            with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError, ray.exceptions.AuthenticationError):
                await self._tail(name, lines)
            try:
                found = await asyncio.to_thread(self.find, name)
                heard = time.monotonic()
            except ResourceError as error:
                if time.monotonic() - heard > LOST_SECONDS:
                    raise ResourceError(
                        f"{error}; job {name} may have ended with its cluster: submit again to go on"
                    ) from None
                await asyncio.sleep(2)
                continue
            if found is None or found.status.is_terminal():
                lines.begin()
                lines.take(await asyncio.to_thread(self.log, name) if found else "")
                return
            await asyncio.sleep(1)

    async def _tail(self, name: str, lines: "_Lines") -> None:
        pieces: AsyncIterator[str] = self._client.tail_job_logs(name)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                lines.take(await asyncio.wait_for(anext(pieces), QUIET_SECONDS))

    def log(self, name: str) -> str:
        with self._asking():
            try:
                return str(self._client.get_job_logs(name))
            except RuntimeError as error:
                raise ResourceError(f"{self.url}: has no log of job {name}: {_reason(error)}") from None

    def stop(self, name: str) -> str:
        """Stop a job, wait for its end, and return how it stands then."""
        there = self.find(name)
        if there is None:
            raise ConfigError(f"--stop: {self.url} has no job {name!r}")
        if there.status.is_terminal():
            return str(there.status.value)
        with self._asking():
            self._client.stop_job(name)
        deadline = time.monotonic() + STOP_SECONDS
        while (there := self.find(name)) is not None and not there.status.is_terminal():
            if time.monotonic() > deadline:
                raise ResourceError(f"--stop: job {name} was asked to end and has not in {STOP_SECONDS:g} s; ask again")
            time.sleep(0.3)
        return str(there.status.value) if there else "gone"


class _Lines:
    """A log's lines, each told once, however often the log is read from its beginning."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._told = tell, 0
        self.begin()

    def begin(self) -> None:
        self._rest, self._to_skip = "", self._told

    def take(self, piece: str) -> None:
        *whole, self._rest = (self._rest + piece).split("\n")
        for line in whole[self._to_skip :]:
            self._tell(line)
        self._told += max(0, len(whole) - self._to_skip)
        self._to_skip = max(0, self._to_skip - len(whole))


def failure(name: str, found: JobDetails, log: str) -> KdRayError:
    """Return what to raise of a job that did not succeed: its own last word, with its own exit code."""
    if found.status == JobStatus.STOPPED:
        return UserError(f"job {name} was stopped; submit again to go on where it was")
    ours = [line.removeprefix("kd-ray: ") for line in log.splitlines() if line.startswith("kd-ray: ")]
    missing = [line for line in log.splitlines() if "No module named" in line and "kd_ray" in line]
    if missing:
        return ResourceError(
            f"job {name}: kd_ray is not installed where jobs run ({missing[-1].strip()}): install it on every node, or "
            "send it along: --package"
        )
    says = "\n".join(ours[-5:]) or (found.message or "").strip() or "no word of why"
    kind = UserError if found.driver_exit_code == 2 else KdRayError
    return kind(f"job {name} failed: {says}")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _reason(error: BaseException) -> str:
    """The innermost reason in a chain such as requests wraps its errors in."""
    inner: Any = error
    while isinstance(getattr(inner, "reason", None) or next(iter(getattr(inner, "args", ())), None), BaseException):
        inner = getattr(inner, "reason", None) or inner.args[0]
    text = " ".join(str(inner).split())
    return text.rpartition(": ")[2] if "object at 0x" in text else text[:300]
