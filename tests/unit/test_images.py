"""No picture takes the API down: it is read by a process that may crash, hang or grow without harm to others."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import psutil
import pytest
from PIL import Image

from deployments.http.errors import Unavailable
from deployments.http.images import IMAGE_FIELD, Images
from pipelines.errors import InvalidRequest
from pipelines.paths import ROOT
from pipelines.pictures.read import Limits
from tests.conftest import DEADLINE_S
from tests.harness.pictures import encoded, scene
from tests.harness.processes import title, until
from tests.unit.conftest import Jobs
from tests.unit.door import Door

LIMITS = Limits(10**6, 8)
PNG = encoded(scene(), "PNG")
ODD = textwrap.dedent("""
    import os, signal, sys, time
    from pipelines.errors import InvalidRequest
    from pipelines.pictures import worker
    real = worker.read_picture
    def read(data, limits):
        what, _, more = data.partition(b" ")
        if what == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == b"once" and not os.path.exists(more):
            open(more, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == b"once":
            return real(open(more + b".png", "rb").read(), limits)
        if what == b"work":
            until = time.process_time() + 0.5
            while time.process_time() < until:
                pass
            return real(more, limits)
        if what == b"wait":
            while not os.path.exists(more):
                time.sleep(0.01)
            raise InvalidRequest("it is here")
        if what == b"spin":
            while True:
                pass
        if what == b"hang":
            time.sleep(10_000)
        if what == b"outlive":
            replica = os.getppid()
            open(more, "w").close()
            while os.getppid() == replica:
                time.sleep(0.01)
            if signal.alarm(0):
                signal.alarm(1)  # what is left of the time may be much
            time.sleep(10_000)
        if what == b"grow":
            bytearray(10 * 2**30)
        if what == b"tell":
            raise InvalidRequest(" ".join(os.environ))
        if what == b"print":
            os.write(1, b"x" * 1000)
            print("y", flush=True)
            return real(data[6:], limits)
        return real(data, limits)
    worker.read_picture = read
    worker.main(*map(int, sys.argv[1:]))
""")
"""The real process, with decoders that do what decoders may do."""


def odd(cpu_s: int = 60, time_s: int = 300) -> Images:
    return Images(LIMITS, cpu_s=cpu_s, time_s=time_s, command=[sys.executable, "-P", "-c", ODD])


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "-P" in title(each).split()]


def has_ended(process: psutil.Process) -> bool:
    return not title(process)


def refusal(images: Images, data: bytes) -> str:
    with pytest.raises(InvalidRequest) as refused:
        images.read(data)
    assert refused.value.param == IMAGE_FIELD
    return refused.value.message


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def test_one_process_reads_one_picture_after_another_and_none_is_there_before_the_first() -> None:
    before = children()  # those of other tests, which may end meanwhile
    images = Images(LIMITS)
    assert set(children()) <= set(before)
    assert pixels(images.read(PNG).png) == scene().tobytes()
    (process,) = set(children()) - set(before)
    assert "cannot be read" in refusal(images, b"none")
    assert pixels(images.read(PNG).png) == scene().tobytes()
    assert set(children()) - set(before) == {process}
    del images
    gc.collect()  # the error of the refusal still knows it
    until(partial(has_ended, process), "the process has ended", DEADLINE_S)


def test_it_loads_pillow_and_little_else() -> None:
    loaded = "import sys, pipelines.pictures.worker; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True, cwd=ROOT)
    heavy = {"torch", "numpy", "ray", "fastapi", "pydantic", "deployments", "pi_heif", "sqlalchemy"}
    assert heavy.isdisjoint(modules.stdout.split())


def test_a_picture_that_crashes_the_decoder_is_refused_and_the_next_one_read() -> None:
    images = odd()
    assert refusal(images, b"crash") == "the image cannot be read; save it anew, as a PNG or JPEG"
    assert pixels(images.read(PNG).png) == scene().tobytes()


def test_a_picture_is_not_blamed_for_one_end_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(PNG)
    assert pixels(odd().read(b"once " + bytes(tmp_path / "there")).png) == scene().tobytes()


@pytest.mark.parametrize(("bad", "cpu_s", "time_s", "limit"), [
    (b"spin", 1, 3 * DEADLINE_S, "1 s of a CPU"), (b"hang", 3 * DEADLINE_S, 1, "1 s"),
])  # fmt: skip
def test_a_picture_that_hangs_the_decoder_is_refused_after_its_time(
    bad: bytes, cpu_s: int, time_s: int, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refusal(odd(cpu_s, time_s), bad)
    assert said == f"the image cannot be read: it takes more than {limit}; send a smaller or simpler one"
    assert f"an image of 4 bytes was not read in {limit}" in caplog.messages


def test_a_picture_that_takes_long_holds_up_no_other(tmp_path: Path) -> None:
    images = odd()
    long = images.threads.submit(refusal, images, b"wait " + bytes(tmp_path / "here"))
    assert pixels(images.threads.submit(images.read, PNG).result(DEADLINE_S).png) == scene().tobytes()
    assert not long.done()
    (tmp_path / "here").touch()
    assert long.result(DEADLINE_S) == "it is here"


def test_each_picture_has_its_own_time() -> None:
    """A process that has read many pictures has used more of a CPU than any of them may."""
    images, before = odd(cpu_s=1), children()
    for _ in range(3):
        images.read(b"work " + PNG)
    assert len(set(children()) - set(before)) == 1


def test_a_decoder_that_asks_for_too_much_memory_gets_none_and_goes_on() -> None:
    images = odd()
    images.read(PNG)
    before = children()
    assert "takes too much memory" in refusal(images, b"grow")
    images.read(PNG)
    assert set(children()) <= set(before)


def test_processes_that_ended_while_idle_are_replaced(tmp_path: Path) -> None:
    before, images = set(children()), odd()
    both = [images.threads.submit(refusal, images, b"wait " + bytes(tmp_path / "here")) for _ in range(2)]
    until(lambda: len(set(children()) - before) == 2, "two processes have started", DEADLINE_S)
    (tmp_path / "here").touch()
    assert [each.result(DEADLINE_S) for each in both] == ["it is here"] * 2
    processes = set(children()) - before
    for process in processes:
        process.kill()
        until(partial(has_ended, process), "the process has ended", DEADLINE_S)
    assert pixels(images.read(PNG).png) == scene().tobytes()


def test_the_process_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINORAY_WEBHOOK_SECRET", "whsec_a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a")
    told = refusal(odd(), b"tell").split()
    assert not {name for name in told if name.startswith(("KINORAY", "AWS", "DATABASE"))}


def test_what_a_library_prints_is_no_answer() -> None:
    assert pixels(odd().read(b"print " + PNG).png) == scene().tobytes()


@pytest.mark.parametrize("command", [["/there/is/none"], [sys.executable, "-c", "raise SystemExit(1)"]])
def test_where_no_process_can_start_the_service_is_at_fault(command: list[str]) -> None:
    with pytest.raises(Unavailable, match="send the request again later"):
        Images(LIMITS, command=command).read(PNG)


@pytest.mark.parametrize("busy", [False, True])
def test_the_process_ends_with_a_replica_that_is_killed(busy: bool, tmp_path: Path) -> None:
    begin = textwrap.dedent("""
        import sys
        from deployments.http.images import Images
        from pipelines.pictures.read import Limits
        images = Images(Limits(10**6, 8), command=[sys.executable, "-P", "-c", sys.argv[1]])
        process = images._started()
        print(process._process.pid, flush=True)
        if sys.argv[2] == "True":
            process.ask(b"outlive " + sys.argv[3].encode(), Limits(10**6, 8), 10_000)
        sys.stdin.read()
    """)
    replica = subprocess.Popen(
        [sys.executable, "-c", begin, ODD, str(busy), str(tmp_path / "busy")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with replica:
        assert replica.stdout is not None
        process = psutil.Process(int(replica.stdout.readline()))
        if busy:
            until((tmp_path / "busy").exists, "the picture is being read", DEADLINE_S)
        replica.send_signal(signal.SIGKILL)
        until(partial(has_ended, process), "the process has ended", DEADLINE_S)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_was_left_out_of_account_is_in_the_job_and_in_a_remix(jobs: Jobs, tmp_path: Path) -> None:
    door = Door(jobs, tmp_path)
    made = door.ask(fields={"model": "svd-tiny"}, image=encoded(scene(), "PNG", icc_profile=b"none"))
    note = "the image's color profile cannot be used; its colors are taken as sRGB"
    assert made.result_metadata.written()["image_notes"] == [note]
    assert door.ask(remix_of=made, fields={"seed": 3}).result_metadata.image_notes == (note,)
    sound = door.ask(fields={"model": "svd-tiny"}, image=PNG)
    assert "image_notes" not in sound.result_metadata.written()
    assert door.ask(remix_of=made, image=PNG).result_metadata.image_notes is None
