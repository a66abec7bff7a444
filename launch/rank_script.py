"""The user's script as ``__main__``, in a process that ``rank.py`` has prepared for it."""

from __future__ import annotations

import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["run"]

Report = Callable[[int, str], None]


def _load_script(path: str) -> tuple[types.CodeType, dict[str, Any]]:
    """The code of the file ``path`` and the attributes of its ``__main__``."""
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    return code, {"__file__": path, "__spec__": None, "__package__": None, "__cached__": None}


def _load_module(name: str) -> tuple[types.CodeType, dict[str, Any]]:
    """The code that ``python -m name`` would run and the attributes of its ``__main__``."""
    import importlib.util

    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # what a package of that name imports
            raise
        spec = None  # one of its packages
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    get_code = getattr(spec and spec.loader, "get_code", None)
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None:
        raise ModuleNotFoundError(
            f"launch: -m {name}: no module of that name that can be run", name=name
        ) from None
    attributes = {"__file__": spec.origin, "__spec__": spec, "__package__": spec.parent}
    return code, {**attributes, "__loader__": spec.loader, "__cached__": spec.cached}


_reported: list[BaseException] = []


def _excepthook(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Print an exception, unless it was reported: the launcher prints that one, last."""
    if error not in _reported:
        sys.__excepthook__(kind, error, trace)


def _fail(error: BaseException, report: Report) -> NoReturn:
    """Tell the watcher about an exception that nothing caught, and leave.

    A hook that the script has set is called as Python would, after the report. What was registered with
    atexit still runs. Threads are not waited for, and MPI is not finalized: both may stand still for ever
    once this rank has left the others.
    """
    import atexit
    import ctypes

    code, text = _describe(error)
    report(code, text)
    if not isinstance(error, SystemExit):
        _reported.append(error)
        sys.excepthook(type(error), error, error.__traceback__)
    elif not isinstance(error.code, int):
        print(error.code, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)
    os._exit(code)


def _describe(error: BaseException) -> tuple[int, str]:
    """The exit code that Python gives an exception, and its traceback, which begins in the script."""
    import traceback

    if isinstance(error, SystemExit):
        return (error.code & 0xFF if isinstance(error.code, int) else 1), ""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace
    shorten = getattr(sys.modules.get("distgrad.tracebacks"), "shorten", None)  # if the script has loaded it
    if shorten is not None:
        shorten(error)
    code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return code, "".join(traceback.format_exception(error))


def run(arguments: list[str], report: Report) -> None:
    """Run the script as ``__main__``; like Python itself, but uncaught exceptions go to the watcher.

    Args:
        arguments: the script's path or ``-m`` and a module, then its own arguments.
        report: called with the exit code and the traceback of an exception that nothing caught.
    """
    process = os.getpid()
    sys.excepthook = _excepthook
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    is_module = arguments[0] == "-m"
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd() if is_module else os.path.dirname(os.path.realpath(arguments[0]))
    sys.argv = arguments[1:] if is_module else arguments
    try:
        code, attributes = _load_module(arguments[1]) if is_module else _load_script(arguments[0])
        if is_module:
            sys.argv[0] = attributes["__file__"]
        main.__dict__.update(attributes)
        exec(code, main.__dict__)
    except BaseException as error:
        if os.getpid() != process:  # a fork that the script made: its end is the script's own affair
            raise
        if isinstance(error, SystemExit) and (error.code is None or _describe(error)[0] == 0):
            raise
        _fail(error, report)
