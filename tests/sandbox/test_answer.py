from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.jail import frames
from visual_arft.jail.frames import frame
from visual_arft.jail.messages import Report
from visual_arft.sandbox import Limits, Outcome
from visual_arft.sandbox.running import Child

REPORT = Report(number=1, wait_status=0, is_over_quota=False, cpu_s=0.1, peak_mb=70)
DONE = frame(frames.DONE)


@contextmanager
def child_that_answers(data: bytes) -> Iterator[Child]:
    """A child that sends these bytes when it is asked something, and ends."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(["/bin/sleep", "99"])
    child = Child(ours, os.pidfd_open(process.pid))
    child.report.set_result(REPORT)

    def speak() -> None:
        with theirs:
            theirs.recv(1024)
            theirs.sendall(data)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        yield child
    finally:
        child.end()
        process.kill()
        process.wait()
        speaker.join()


def outcome_of(data: bytes) -> Outcome:
    with child_that_answers(data) as child:
        return child.step("", {}, Limits(wall_s=20))


@given(st.binary(max_size=300))
def test_no_bytes_from_a_child_raise_or_pass_for_success(noise: bytes):
    outcome = outcome_of(frame(frames.STDOUT, b"a") + noise)
    assert outcome.status in ("crashed", "rejected") or DONE in noise


@given(st.integers(1, 6), st.integers(1, 6))
def test_an_image_crosses_the_wire_unchanged(height: int, width: int):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    data = b"".join(frames.image_frame(pixels))
    kind, length = frames.bounded(data[: frames.HEADER.size])
    assert (kind, length) == (frames.IMAGE, len(data) - frames.HEADER.size)
    np.testing.assert_array_equal(frames.pixels_of(bytearray(data[frames.HEADER.size :])), pixels)


@pytest.mark.parametrize(
    "data",
    [
        frame(frames.STDOUT),
        frame(frames.STARTED),
        frame(frames.FAILED),
        frame(frames.REQUEST),
        frame(frames.ERROR, b"a") * 2,
        frame(frames.STDOUT, bytes(frames.MAX_STDOUT)) + frame(frames.STDOUT, b"a"),
        frame(frames.IMAGE, struct.pack("!II", 1, 1) + bytes(3)) * 9,
        frame(frames.IMAGE, struct.pack("!II", 2, 2) + bytes(3)),
        frame(frames.IMAGE, struct.pack("!II", 0, 5)),
        frame(frames.IMAGE, struct.pack("!II", 1, 8193) + bytes(3 * 8193)),
        frame(frames.IMAGE, b"abc"),
    ],
)
def test_what_our_own_harness_never_sends_is_rejected(data: bytes):
    assert outcome_of(data + DONE).status == "rejected"


def test_an_answer_before_the_question_is_rejected():
    with child_that_answers(DONE + DONE) as child:
        assert child.step("", {}, Limits()).status == "ok"
        assert child.step("", {}, Limits()).status == "rejected"


def test_a_report_survives_the_wire():
    assert Report.unpack(REPORT.pack()) == REPORT
