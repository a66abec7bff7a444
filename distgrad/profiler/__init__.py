"""A run that can be seen: what every rank does, and when, in one trace.

::

    with dg.profiler.record("out.json.gz", steps=range(10, 15)):
        train()

``distgrad run --trace out.json.gz -n 4 train.py`` does it for a whole script, and ``distgrad report
out.json.gz`` makes a page of it.
"""

from distgrad.profiler.recording import record, step
from distgrad.profiler.report import report

__all__ = ["record", "report", "step"]
