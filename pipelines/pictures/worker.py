"""The process that decodes pictures, one after another, for a program that must not go down with it.

It reads each file from its standard input and writes the picture to its standard output. A decoder that crashes takes
only this process with it; one that asks for too much memory fails; and one that hangs is ended, also where the program
that started it is gone. It ends when its input does.

The messages are bytes and JSON, not pickles: what comes from a process that a picture took over is not to be trusted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

from pipelines.errors import InvalidRequest
from pipelines.pictures.read import Limits, read_picture

REQUEST = struct.Struct(">QQd")
"""The bytes of the file, which follow; and the limits: pixels and aspect ratio."""
ANSWER = struct.Struct(">QQ")
"""The bytes of the JSON and of the PNG, both of which follow. The JSON says `notes`, or what is `refused`."""
READY = b"ready"


def main(memory_bytes: int, cpu_s: int, time_s: int) -> None:
    """Serve until the input ends.

    Args:
        memory_bytes: the data that this process may have in all.
        cpu_s: the most that one picture may take of a CPU.
        time_s: the longest that one picture may take.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    # The default actions end the process even in the middle of a decoder, where no handler of Python's would run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the program that started this
    logging.disable()  # Pillow tells what is wrong with files of strangers, who are told anyway
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    answers.write(READY)
    answers.flush()
    while head := asked.read(REQUEST.size):
        signal.alarm(time_s)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + cpu_s)
        length, pixels, aspect_ratio = REQUEST.unpack(head)
        _answer(asked.read(length), Limits(pixels, aspect_ratio), answers)
        signal.alarm(0)


def _limit(kind: int, value: int) -> None:
    """Limit this process, within what whoever started it allows."""
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _answer(data: bytes, limits: Limits, answers: BinaryIO) -> None:
    said: dict[str, object]
    try:
        picture = read_picture(data, limits)
        said, png = {"notes": picture.notes}, picture.png
    except InvalidRequest as refused:
        said, png = {"refused": refused.message}, b""
    except MemoryError:
        said, png = {"refused": "the image cannot be read: that takes too much memory; send a smaller one"}, b""
    text = json.dumps(said).encode()
    answers.write(ANSWER.pack(len(text), len(png)))
    answers.write(text)
    answers.write(png)
    answers.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
