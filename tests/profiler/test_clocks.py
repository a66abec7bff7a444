"""Clocks that are apart and drift: what is left when they are brought together, and that it is said."""

import random

import pytest

from distgrad.profiler import clocks


def answers(offset_s, ppm, count=300, seconds=10.0, seed=0):
    """Questions asked in this clock's seconds, on a network that takes 30 µs and now and then much longer."""
    draw = random.Random(seed)
    pings = []
    for place in range(count):
        asked_s = 1000.0 + seconds * place / count
        there, back = (30e-6 + draw.expovariate(1 / 200e-6) for _ in range(2))
        heard_s = asked_s + there
        pings.append((asked_s, heard_s + back, heard_s + offset_s + ppm * 1e-6 * (heard_s - 1000.0)))
    return pings


@pytest.mark.parametrize("seed", range(5))
def test_an_offset_and_a_drift_are_found(seed):
    found = clocks.relate(answers(3.7, 50.0, seed=seed))
    left_s = [abs(found(t) - (t + 3.7 + 50e-6 * (t - 1000.0))) for t in (1000.0, 1003.0, 1010.0)]
    assert max(left_s) <= found.error_s <= 100e-6
    assert found.drift == pytest.approx(50e-6, abs=20e-6)


def test_a_short_time_shows_no_drift():
    found = clocks.relate(answers(-2.0, 0.0, count=20, seconds=0.1))
    assert found.drift == 0.0
    assert abs(found.offset_s + 2.0) <= found.error_s


def test_clocks_that_were_set_meanwhile_are_refused():
    with pytest.raises(ValueError, match="contradict each other"):
        clocks.relate(answers(3.7, 0.0) + [(1011.0, 1011.001, 2000.0)])
    with pytest.raises(ValueError, match="no question was answered"):
        clocks.relate([])


def test_rank_0_tells_the_time_to_who_knows_the_token(tmp_path):
    server = clocks.TimeServer(tmp_path)
    try:
        found = clocks.find_server(tmp_path)
        pings = clocks.ask(found, 5, patience_s=10.0)
        assert len(pings) == 5
        assert all(asked <= said <= heard for asked, heard, said in pings)
        stranger = type(found)(found.clock, found.addresses, b"x" * 16)
        assert clocks.ask(stranger, 1) == []
        assert (tmp_path / clocks.ADDRESS_FILE).stat().st_mode & 0o77 == 0
    finally:
        server.close()
