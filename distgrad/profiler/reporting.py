"""A page of a trace, or of the statistics of DistributedDataParallel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distgrad.errors import DataError
from distgrad.profiler import chrome
from distgrad.profiler.advice import advise
from distgrad.profiler.merge import merge
from distgrad.profiler.page import render
from distgrad.profiler.recording import remove_spool, spool_folder
from distgrad.profiler.spool import is_growing
from distgrad.profiler.summary import PARTS, Bucket, Summary, summarize
from distgrad.profiler.whole import whole

__all__ = ["report"]


def report(source: Any, page: str | os.PathLike[str] | None = None) -> Path:
    """Write a page about a run: where its steps' time goes, who waits for whom and why, and what to do.

    ::

        dg.profiler.report("out.json.gz")               # writes out.json.gz.html
        dg.profiler.report(ddp.stats(), "now.html")

    Args:
        source: a trace's file, or what ``DistributedDataParallel.stats()`` gives, of this rank alone. Where
            a launcher was killed before it had made the file, it is made here.
        page: the page's file; None takes the trace's name with ``.html``.

    Returns:
        The page's path. It is whole or not there.

    Raises:
        DataError: the file is no trace, or holds no step; or the page cannot be written.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        folder = spool_folder(path.absolute())
        if not path.exists() and folder.is_dir():
            merge(folder, path.absolute())
            if not is_growing(folder):
                remove_spool(folder)
        found = summarize(chrome.read(path))
        output = Path(page) if page is not None else path.with_name(f"{path.name}.html")
    else:
        if page is None:
            raise DataError("report: statistics have no file; name that of the page")
        found, output = _of_statistics(source), Path(page)
    found.warnings = advise(found)
    with whole(output, "report") as part:
        part.write_text(render(found), encoding="utf-8")
    return output


def _of_statistics(statistics: Any) -> Summary:
    """What ``Statistics`` know."""
    count = statistics.num_steps
    if not count:
        raise DataError("report: the statistics are of no step yet; ask after some training")
    parts = dict.fromkeys(PARTS, 0.0)
    parts["backward"] = statistics.computing_s / count
    parts["exposed communication"] = statistics.exposed_s / count
    step_s = max(statistics.step_s / count, parts["backward"] + parts["exposed communication"])
    parts["other"] = step_s - sum(parts.values())
    buckets = [
        Bucket(number, each["num_bytes"], each["busy_s"], each["waited_s"])
        for number, each in enumerate(statistics.buckets)
    ]
    found = Summary(f"statistics of {count} steps", parts={0: parts}, buckets=buckets)
    found.steps, found.hidden_s = {0: {count: step_s}}, {0: statistics.hidden_s / count}
    if statistics.slowest_rank is not None:
        found.notes.append(
            f"Rank {statistics.slowest_rank} had computed longest when replicas were compared."
        )
    found.notes.append(
        "Statistics know no spans: what lies outside backward is in 'other'. Record a trace for it."
    )
    return found
