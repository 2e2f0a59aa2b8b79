"""Has input images read by processes of their own, which a picture may crash, hang or fill without harm to the API."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from deployments.http.errors import Unavailable
from pipelines.errors import InvalidRequest
from pipelines.pictures import worker
from pipelines.pictures.read import Limits, Picture

log = logging.getLogger("ray.serve")

IMAGE_FIELD = "input_reference"
WORKERS = 2
"""A picture of 50 megapixels takes seconds, and one that hangs takes `CPU_S`: others go past it."""
CPU_S = 60
"""The most that a picture may take of a CPU; one of 50 megapixels takes 2 to 6 seconds."""
TIME_S = 300
"""The longest that a picture may take: a machine may be busy, and a decoder may hang without using a CPU."""
START_S = 60
"""The longest that a process may take to start; it takes a tenth of a second on a machine that is not busy."""
BASE_BYTES = 512 * 2**20
BYTES_PER_PIXEL = 32
"""The memory that a process may have, twice what any kind of picture was seen to take."""
WORKER = [sys.executable, "-P", "-m", worker.__name__]

_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG")
"""What a process needs that reads files of strangers. The secrets of the service are not among it."""


class Images:
    """Reads input images. All requests of one API replica share one instance.

    No process is started before the first image, and one that has ended is replaced when it is needed.
    """

    def __init__(
        self, limits: Limits, *, cpu_s: int = CPU_S, time_s: int = TIME_S, command: list[str] | None = None
    ) -> None:
        self._limits = limits
        self._cpu_s = cpu_s
        self._time_s = time_s
        self._command = command or WORKER
        self.threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="image")
        """The threads to call `read` in. As many processes are started as they need at once."""
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()

    def read(self, data: bytes) -> Picture:
        """The image as an upright RGB PNG, with notes. It takes seconds.

        Raises:
            InvalidRequest: no image, or none that may be sent.
            Unavailable: no process can be started.
        """
        # A process may also end by somebody else's hand, such as the kernel's when memory is short. A picture that
        # ends two has earned it.
        for _ in range(2):
            process = self._started()
            said = process.ask(data, self._limits, self._time_s)
            if said is not None:
                self._idle.put(process)
                return _picture(*said)
            process.end()
            if limit := self._exceeded_by(process):
                log.warning("an image of %d bytes was not read in %s", len(data), limit)
                raise InvalidRequest(
                    f"the image cannot be read: it takes more than {limit}; send a smaller or simpler one",
                    param=IMAGE_FIELD,
                )
            log.warning("a process has ended over an image of %d bytes", len(data))
        raise InvalidRequest("the image cannot be read; save it anew, as a PNG or JPEG", param=IMAGE_FIELD)

    def _exceeded_by(self, process: _Process) -> str | None:
        """The limit of time over which a process has ended; None if it was another reason."""
        if process.is_overdue:
            return f"{self._time_s} s"
        return f"{self._cpu_s} s of a CPU" if process.has_spent_its_time else None

    def _started(self) -> _Process:
        """A process that is idle, or a new one. Raises Unavailable."""
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                break
            if process.is_alive:
                return process
            process.end()
        memory = BASE_BYTES + BYTES_PER_PIXEL * self._limits.pixels
        try:
            return _Process([*self._command, str(memory), str(self._cpu_s), str(2 * self._time_s)])
        except OSError as error:
            log.error("no process can be started to read images: %s", error)
            raise Unavailable("images cannot be read at the moment; send the request again later") from None


def _picture(words: dict[str, object], png: bytes) -> Picture:
    refused, notes = words.get("refused"), words.get("notes")
    if isinstance(refused, str):
        raise InvalidRequest(refused, param=IMAGE_FIELD)
    return Picture(png, tuple(map(str, notes)) if isinstance(notes, list) else ())


class _Process:
    """A process of `pipelines.pictures.worker`. It reads one picture at a time, and ends with its pipes."""

    def __init__(self, command: list[str]) -> None:
        """Start it. Raises OSError."""
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # As multiprocessing does it: the modules are where this process finds them.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._process = process
        self.is_overdue = False
        """Whether it was ended because a picture took too long."""
        self.end: Callable[[], object] = weakref.finalize(self, _end, process)
        assert process.stdin is not None
        assert process.stdout is not None
        self._asked, self._answers = process.stdin, process.stdout
        with self._ended_after(START_S):
            ready = self._answers.read(len(worker.READY))
        if ready != worker.READY:
            self.end()
            raise OSError(f"{' '.join(command)} ended with {process.returncode} before it was ready")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def has_spent_its_time(self) -> bool:
        """Whether it has ended because a picture took too much of a CPU."""
        return self._process.returncode == -signal.SIGXCPU

    def ask(self, data: bytes, limits: Limits, time_s: float) -> tuple[dict[str, object], bytes] | None:
        """What it says of a picture, as JSON, and the picture. None if it has ended, which it does after `time_s`."""
        try:
            with self._ended_after(time_s):
                self._asked.write(worker.REQUEST.pack(len(data), limits.pixels, limits.aspect_ratio))
                self._asked.write(data)
                self._asked.flush()
                words, png = worker.ANSWER.unpack(self._received(worker.ANSWER.size))
                if words > 2**16 or png > 2**20 + 4 * limits.pixels:
                    return None  # no answer of ours
                return json.loads(self._received(words)), self._received(png)
        except (OSError, EOFError, ValueError):
            return None

    def _received(self, length: int) -> bytes:
        data = self._answers.read(length)
        if len(data) < length:
            raise EOFError
        return data

    @contextmanager
    def _ended_after(self, time_s: float) -> Iterator[None]:
        """End the process if what is done meanwhile takes longer: its pipes fail then."""

        def end() -> None:
            self.is_overdue = True
            self._process.kill()

        timer = threading.Timer(time_s, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except OSError:
            pass  # what it did not read any more cannot be written
