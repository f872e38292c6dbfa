from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_arft.errors import ToolFailure
from visual_arft.sandbox import Limits, frames
from visual_arft.sandbox.answer import Answer, judge, read_answer

ENDED_WELL = frames.Report(wait_status=0, overran=False, cpu_s=0.1, wall_s=0.2, peak_mb=70)


def answer_to(data: bytes) -> Answer:
    """What the trainer makes of these bytes from a child."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(data)
        return read_answer(ours)


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("!cI", kind, len(payload)) + payload


STARTED, DONE = frame(frames.STARTED), frame(frames.DONE)


@given(st.binary(max_size=300))
def test_no_bytes_from_a_child_raise_or_pass_for_success(noise: bytes):
    outcome = judge(answer_to(STARTED + frame(frames.STDOUT, b"a") + noise), ENDED_WELL, Limits())
    assert outcome.status in ("crashed", "rejected") or DONE in noise


@given(st.integers(1, 6), st.integers(1, 6))
def test_an_image_crosses_the_wire_unchanged(height: int, width: int):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send_image(theirs, pixels)
        kind, payload = frames.receive_bounded(ours)
    assert kind == frames.IMAGE
    np.testing.assert_array_equal(frames.pixels_of(payload), pixels)


@pytest.mark.parametrize(
    "data",
    [
        frame(frames.STDOUT),
        frame(frames.STARTED),
        frame(frames.REQUEST),
        frame(frames.ERROR, b"a") * 2,
        frame(frames.STDOUT, bytes(frames.MAX_STDOUT)) + frame(frames.STDOUT, b"a"),
        frame(frames.IMAGE, struct.pack("!II", 1, 1) + bytes(3)) * 9,
        frame(frames.IMAGE, struct.pack("!II", 2, 2) + bytes(3)),
        frame(frames.IMAGE, struct.pack("!II", 0, 5)),
        frame(frames.IMAGE, b"abc"),
    ],
)
def test_what_our_own_harness_never_sends_is_rejected(data: bytes):
    assert judge(answer_to(STARTED + data + DONE), ENDED_WELL, Limits()).status == "rejected"


def test_a_child_that_could_not_confine_itself_is_a_failure_of_the_machinery():
    with pytest.raises(ToolFailure, match="could not confine the code: OSError: no"):
        judge(answer_to(frame(frames.ERROR, b"OSError: no")), ENDED_WELL, Limits())


def test_the_zygote_has_the_last_word_on_time():
    overran = ENDED_WELL._replace(overran=True)
    assert judge(answer_to(STARTED + DONE), overran, Limits()).status == "timeout"


def test_a_report_survives_the_wire():
    assert frames.Report.unpack(ENDED_WELL.pack()) == ENDED_WELL
