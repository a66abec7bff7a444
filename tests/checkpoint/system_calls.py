"""Ends a process at the Nth system call by which it changes a folder: before the call, after it, or in it.

The process is a fork that is traced (ptrace(2)) with all its threads, so that nothing in it knows. A write
can also be torn: half of its bytes are written before the end. Or the folder is lost from that call on: it
and all others that have to do with it fail, as on a network file system whose server has gone, until it is
back. For Linux on x86-64.
"""

import ctypes
import os
import signal
import struct

_TRACEME, _POKEUSER, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 6, 24, 0x4200, 0x420E
_OPTIONS = 1 | 2 | 4 | 8 | 0x100000  # SYSGOOD, FORK, VFORK, CLONE, EXITKILL
_ALL_THREADS = 0x40000000  # __WALL
_ENTRY, _EXIT = 1, 2
_LENGTH_REGISTER = 12 * 8  # rdx: the third argument
_RESULT_REGISTER, _CALL_REGISTER = 10 * 8, 15 * 8  # rax, orig_rax
_NO_CALL = (1 << 64) - 1

#: By number: the name, and where the file is told: "fd", a path in that argument, or a folder before it.
_CALLS = {
    1: ("write", "fd"),
    18: ("pwrite64", "fd"),
    20: ("writev", "fd"),
    74: ("fsync", "fd"),
    75: ("fdatasync", "fd"),
    77: ("ftruncate", "fd"),
    82: ("rename", 0),
    83: ("mkdir", 0),
    84: ("rmdir", 0),
    86: ("link", 1),
    87: ("unlink", 0),
    257: ("openat", (0, 1)),
    258: ("mkdirat", (0, 1)),
    263: ("unlinkat", (0, 1)),
    264: ("renameat", (0, 1)),
    316: ("renameat2", (0, 1)),
}

#: The same of calls that only look.
_LOOKS = {
    0: ("read", "fd"),
    4: ("stat", 0),
    5: ("fstat", "fd"),
    6: ("lstat", 0),
    17: ("pread64", "fd"),
    21: ("access", 0),
    73: ("flock", "fd"),
    217: ("getdents64", "fd"),
    262: ("newfstatat", (0, 1)),
    269: ("faccessat", (0, 1)),
    285: ("fallocate", "fd"),
    327: ("preadv2", "fd"),
    332: ("statx", (0, 1)),
    295: ("preadv", "fd"),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request, thread, address=0, data=0):
    if _libc.ptrace(request, thread, address, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")


def _path(thread, address):
    with open(f"/proc/{thread}/mem", "rb") as memory:
        memory.seek(address)
        return memory.read(400).split(b"\0", 1)[0].decode(errors="replace")


def _path_of(thread, where, arguments):
    """What file a call is about; None where that cannot be told."""
    try:
        if where == "fd":
            return os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
        path = _path(thread, arguments[where[1] if isinstance(where, tuple) else where])
        if not path.startswith("/") and isinstance(where, tuple):
            path = f"{os.readlink(f'/proc/{thread}/fd/{arguments[0]}')}/{path}"
        return path
    except OSError:
        return None


def _touches(thread, number, arguments, folder, calls):
    """The name of one of these calls that has to do with the folder; None for others."""
    name, where = calls.get(number, (None, None))
    path = None if name is None else _path_of(thread, where, arguments)
    return name if path is not None and f"{path}/".startswith(f"{folder}/") else None


def _changes(thread, number, arguments, folder):
    """The name of a call that changes something in the folder; None for others."""
    if number == 257 and not arguments[2] & os.O_CREAT:
        return None
    return _touches(thread, number, arguments, folder, _CALLS)


def _trace(function, on_entry, on_exit):
    """Call ``function()`` in a fork, and both others at its system calls; returns its exit status.

    Args:
        function: what the fork does.
        on_entry: called with the fork, the thread, the call's number and its arguments.
        on_exit: called with the fork and the thread.
    """
    main = os.fork()
    if main == 0:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    os.waitpid(main, _ALL_THREADS)
    _ptrace(_SETOPTIONS, main, 0, _OPTIONS)
    _ptrace(_SYSCALL, main)
    result = None
    while True:
        try:
            thread, status = os.waitpid(-1, _ALL_THREADS)
        except ChildProcessError:
            return result
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            result = status if thread == main else result
            continue
        stop = os.WSTOPSIG(status)
        deliver = 0
        if stop == signal.SIGTRAP | 0x80:
            info = ctypes.create_string_buffer(88)
            try:
                _ptrace(_GET_SYSCALL_INFO, thread, 88, ctypes.addressof(info))
            except ProcessLookupError:  # killed since it stopped
                continue
            kind, call, *arguments = info.raw[0], *struct.unpack_from("<7Q", info.raw, 24)
            if kind == _ENTRY:
                on_entry(main, thread, call, arguments)
            elif kind == _EXIT:
                on_exit(main, thread)
        elif not status >> 16 and stop not in (signal.SIGSTOP, signal.SIGTRAP):
            deliver = stop
        try:
            _ptrace(_SYSCALL, thread, 0, deliver)
        except OSError:  # it is dead
            continue


def run_killed(function, folder, number, how):
    """Call ``function()`` in a fork that is killed at call ``number``; which call that was.

    Args:
        function: what the fork does.
        folder: the folder whose changes are counted.
        number: of the call, from 0 on.
        how: "before" the call, "after" it, or "torn", in the middle of a write.

    Returns:
        The name of the call; None if there were fewer calls, or it cannot be torn.
    """
    count, chosen, name = 0, None, None

    def on_entry(main, thread, call, arguments):
        nonlocal count, chosen, name
        found = _changes(thread, call, arguments, folder) if chosen is None else None
        if found is not None and count == number:
            chosen, name = thread, found
            if how == "torn":
                if found != "write" or arguments[2] < 2:
                    name = None
                else:
                    _ptrace(_POKEUSER, thread, _LENGTH_REGISTER, arguments[2] // 2)
            if how == "before" or name is None:
                os.kill(main, signal.SIGKILL)
        count += found is not None

    def on_exit(main, thread):
        if thread == chosen:
            os.kill(main, signal.SIGKILL)

    _trace(function, on_entry, on_exit)
    return name


def run_lost(function, folder, number, error):
    """Call ``function()`` in a fork that loses the folder at call ``number``.

    The calls are counted once the fork has made a folder ``FOLDER.begin``, and fail until ``FOLDER.back``.

    Args:
        function: what the fork does.
        folder: the folder.
        number: of a call that changes it, from 0 on.
        error: what the calls fail of.

    Returns:
        Whether ``function`` returned, and the name of the call; None if there were fewer.
    """
    count, lost, name, failing = None, False, None, set()

    def on_entry(main, thread, call, arguments):
        nonlocal count, lost, name
        if _touches(thread, call, arguments, f"{folder}.begin", _CALLS):
            count = 0
        if _touches(thread, call, arguments, f"{folder}.back", _CALLS):
            count, lost = None, False
        change = None if count is None else _changes(thread, call, arguments, folder)
        if change is not None:
            if count == number:
                lost, name = True, change
            count += 1
        if lost and _touches(thread, call, arguments, folder, {**_CALLS, **_LOOKS}):
            _ptrace(_POKEUSER, thread, _CALL_REGISTER, _NO_CALL)
            failing.add(thread)

    def on_exit(main, thread):
        if thread in failing:
            failing.remove(thread)
            _ptrace(_POKEUSER, thread, _RESULT_REGISTER, (1 << 64) - error)

    return _trace(function, on_entry, on_exit) == 0, name
