"""Ends a process at the Nth system call by which it changes a folder: before the call, after it, or in it.

The process is a fork that is traced (ptrace(2)) with all its threads, so that nothing in it knows. A write
can also be torn: half of its bytes are written before the end. For Linux on x86-64.
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


def _changes(thread, number, arguments, folder):
    """The name of a call that changes something in the folder; None for others."""
    name, where = _CALLS.get(number, (None, None))
    if name is None or (name == "openat" and not arguments[2] & os.O_CREAT):
        return None
    try:
        if where == "fd":
            path = os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
        else:
            path = _path(thread, arguments[where[1] if isinstance(where, tuple) else where])
            if not path.startswith("/") and isinstance(where, tuple):
                path = f"{os.readlink(f'/proc/{thread}/fd/{arguments[0]}')}/{path}"
    except OSError:
        return None
    return name if path.startswith(f"{folder}/") or path == str(folder) else None


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
    main = os.fork()
    if main == 0:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(main, _ALL_THREADS)
    _ptrace(_SETOPTIONS, main, 0, _OPTIONS)
    _ptrace(_SYSCALL, main)
    count, chosen, name = 0, None, None
    while True:
        try:
            thread, status = os.waitpid(-1, _ALL_THREADS)
        except ChildProcessError:
            return name
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            continue
        stop = os.WSTOPSIG(status)
        deliver = 0
        if stop == signal.SIGTRAP | 0x80:
            info = ctypes.create_string_buffer(88)
            _ptrace(_GET_SYSCALL_INFO, thread, 88, ctypes.addressof(info))
            kind, call, *arguments = info.raw[0], *struct.unpack_from("<7Q", info.raw, 24)
            if kind == _ENTRY and chosen is None:
                found = _changes(thread, call, arguments, folder)
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
            elif kind == _EXIT and thread == chosen:
                os.kill(main, signal.SIGKILL)
        elif not status >> 16 and stop not in (signal.SIGSTOP, signal.SIGTRAP):
            deliver = stop
        try:
            _ptrace(_SYSCALL, thread, 0, deliver)
        except OSError:  # it is dead
            continue
