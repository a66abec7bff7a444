"""Memory that is lent to streams is kept until all of them have read it, and no longer."""

import gc
import weakref
from types import SimpleNamespace

from distgrad.backend.lending import Lending


class Memory:
    """What an array holds."""


class Streams:
    """Streams by name; what each was given so far ends when it is said to."""

    def __init__(self):
        self.events = {}

    def record(self, stream):
        return self.events.setdefault(stream, SimpleNamespace(done=False))


def lent(*streams):
    """A lending whose memory has no array any more, the streams, and whether the memory is still kept."""
    given, memory = Streams(), Memory()
    lending, kept = Lending(given.record), weakref.ref(memory)
    for stream in streams:
        lending.lend(memory, stream)
    lending.collect()
    assert not given.events  # there is an array: nobody waits yet
    del memory
    lending.collect()

    def is_kept():
        lending.collect()
        gc.collect()
        return kept() is not None

    return given.events, is_kept


def test_memory_is_kept_until_its_stream_is_done():
    events, is_kept = lent("a")
    assert is_kept()
    events["a"].done = True
    assert not is_kept()


def test_all_streams_are_waited_for_in_any_order():
    for first, last in (("a", "b"), ("b", "a")):
        events, is_kept = lent("a", "b", "a")
        assert events.keys() == {"a", "b"}
        events[first].done = True
        assert is_kept()
        events[last].done = True
        assert not is_kept()
