"""I6: a decoder that fails is left alone, for a while or for good, and the next one serves."""

from __future__ import annotations

import pytest
from sidestream.preview import records
from sidestream.preview.capture import runs
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.render.chain import Failures, FallbackChain
from sidestream.tests.helpers import (
    FakeSink,
    FakeSource,
    FlatDecoder,
    a_book,
    an_engine,
    capture,
    start_run,
    wait_until,
)

PASSING = RuntimeError("CUDA error: out of memory")


class Short(DecoderError):
    lasting = False


def test_a_failure_that_passes_is_tried_again_with_growing_pauses():
    best, next_best = FakeSource(name="best"), FakeSource(name="next")
    chain = FallbackChain([best, next_best])
    now = 100.0
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        assert chain.current(now) is best
        chain.failed(best, PASSING, now)
        assert chain.current(now) is next_best
        assert chain.current(now + seconds - 0.01) is next_best
        now += seconds
    assert chain.current(now) is best


@pytest.mark.parametrize(
    ("error", "comes_back"), [(DecoderError("damaged"), False), (Short("no room"), True)]
)
def test_a_failure_that_lasts_is_for_good(error, comes_back):
    source = FakeSource()
    chain = FallbackChain([source])
    chain.failed(source, error, 0.0)
    assert chain.current(0.5) is None
    assert (chain.current(1e9) is source) == comes_back
    assert chain.wanted


def test_each_decoder_is_spoken_of_once_a_run(caplog):
    best, next_best = FakeSource(name="best"), FakeSource(name="next")
    failures = Failures()
    for now in range(100):
        chain = FallbackChain([best, next_best], failures)  # the method was toggled
        for source in (best, next_best):
            chain.failed(source, PASSING, float(now))
    assert [record.getMessage() for record in caplog.records] == [
        f"[SideStream] {name} previews failed (RuntimeError: {PASSING}); this run continues with"
        f" {after} and retries them later."
        for name, after in (("best", "next previews"), ("next", "ComfyUI's own previews"))
    ]


def test_a_decoder_that_is_known_to_fail_is_passed_over_in_silence(caplog):
    broken, good = FakeSource(name="broken"), FakeSource(name="good")
    run = start_run(a_book(), broken, good, is_broken=lambda source: source is broken)
    assert run.chain.current(0.0) is good
    assert run.chain.wanted
    assert caplog.records == []


def test_i6_one_out_of_memory_at_step_3_costs_no_more_than_some_steps(monkeypatch):
    """It is tried again later in the run, and at once in the next run."""
    now = [100.0]
    monkeypatch.setattr(records, "now", lambda: now[0])
    fails = {3}
    step = 0

    def before():
        if step in fails:
            fails.remove(step)
            raise PASSING

    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    sources = FakeSource(FlatDecoder(before=before), name="best"), FakeSource(name="next")
    run = start_run(book, *sources)
    for step in range(1, 9):
        capture(engine, run, step)
        assert wait_until(lambda: run.open_frames == 0)
        now[0] += 0.4
    decoders = [frame.info.decoder for frame in sink.frames]
    assert decoders == ["best"] * 2 + ["next"] * 3 + ["best"] * 3
    fails.add(9)
    step = 9
    capture(engine, run, step)
    assert wait_until(lambda: run.open_frames == 0)
    again = start_run(book, *sources)
    step = 10
    capture(engine, again, step)
    assert wait_until(lambda: again.open_frames == 0)
    assert [frame.info.decoder for frame in sink.frames[-2:]] == ["next", "best"]
    engine.close()


def test_a_method_that_cannot_be_changed_leaves_the_old_chain(caplog):
    source = FakeSource()
    run = start_run(a_book(), source)
    chain = run.chain
    run._spec = runs.RunSpec(
        run.context, run._spec.layers, lambda settings: [][0], 512, 20
    )  # no folder any more
    run.change({"method": "latent2rgb", "quality": 12})
    run.wants(records.now())  # the sampler's next step
    assert run.chain is chain
    assert (run.settings.method, run.settings.quality) == ("host", 12)
    assert len(caplog.records) == 1
