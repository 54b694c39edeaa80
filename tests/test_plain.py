"""I6 contained: what comes from outside forges no line, fills no memory and breaks no console."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.plain import LONGEST, encodable, file_name, in_a_line, one_line, plain


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(10, 300))
def test_every_text_becomes_a_short_line_that_any_console_prints(text, longest):
    line = plain(text, longest)
    assert len(line) <= longest
    assert line.isascii()
    assert line.isprintable()
    assert len(one_line(text, longest)) <= longest
    assert len(one_line(text, longest).splitlines()) <= 1
    encodable(one_line(text, longest)).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("as it is", "as it is"),
        ("two\r\n[SideStream] forged", "two [SideStream] forged"),
        ("taesd \U0001f600.pth", "taesd \\U0001f600.pth"),
        ("bytes \udcff\x1b[31m", "bytes \\udcff\\x1b[31m"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text, expected):
    assert plain(text) == expected


def test_the_report_keeps_what_it_can_write():
    assert one_line("日本 \U0001f600") == "日本 \U0001f600"
    assert encodable("bytes \udcff") == "bytes \\udcff"


def test_a_text_of_100_mb_costs_no_time():
    text = "x\n" * 50_000_000
    start = time.thread_time()  # the processor's, which others may keep from it
    assert len(plain(text)) <= LONGEST
    assert time.thread_time() - start < 0.1


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


def test_errors_are_one_line_whatever_they_are_of():
    assert in_a_line(Unspeakable()) == "Unspeakable"
    assert in_a_line(RuntimeError("CUDA error\nCompile with ...")) == "RuntimeError: CUDA error"
    assert in_a_line(DecoderError("a\nb")) == "a b"
    assert len(in_a_line(ValueError("y" * 10_000_000))) <= LONGEST
    assert file_name("/home/marie/models/taesd_decoder\n.pth") == "taesd_decoder .pth"
