"""A link of NCCL is ended once, whoever comes: no GPU is needed to ask."""

import sys
import threading
import time

from distgrad.comm.nccl import NcclCommunicator


class Link:
    """Counts its ends."""

    def __init__(self):
        self.ends = []

    def abort(self):
        self.ends.append("abort")


def dawdle(frame, event, arg):
    """A trace function: the threads go line by line, side by side."""
    time.sleep(5e-3)
    return dawdle


def test_a_link_is_aborted_once_by_threads_that_come_together():
    comm = NcclCommunicator.__new__(NcclCommunicator)
    comm._parts, comm._link, comm._ending = [], Link(), threading.Lock()
    start = threading.Barrier(4)

    def end():
        start.wait()
        sys.settrace(dawdle)
        comm.abort()
        sys.settrace(None)

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert comm._link.ends == ["abort"]
