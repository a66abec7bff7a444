"""Swap the functions that CuPy's compiled modules import from each other by C pointer.

``cupy_backends.cuda.api.runtime`` and ``driver`` hand their functions to the rest of CuPy as capsules: a C
pointer and its signature in words. Here a C function is generated for every signature, which calls a Python
handler and passes its exception on, and the capsule is replaced before any other module has read it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from gpu_double.build import compile_library

_api = ctypes.pythonapi
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

# C type: its letter in a format of PyObject_CallFunction, what reads it from a Python object, and the value
# beside which CuPy's callers look whether an exception is set.
_TYPES = {
    "int": ("i", "PyLong_AsLong", -1),
    "unsigned int": ("I", "PyLong_AsUnsignedLong", 0),
    "size_t": ("n", "PyLong_AsSsize_t", -1),
    "intptr_t": ("n", "PyLong_AsSsize_t", 0),
    "uintmax_t": ("K", "PyLong_AsUnsignedLongLong", 0),
    "float": ("f", "PyFloat_AsDouble", 0),
}
_ALIASES = {"cudaMemcpyKind": "int", "CUdevice": "int"}
_HEAD = """
#include <stddef.h>
#include <stdint.h>
typedef struct _object PyObject;
PyObject *PyObject_CallFunction(PyObject *, const char *, ...);
void Py_IncRef(PyObject *);
void Py_DecRef(PyObject *);
long PyLong_AsLong(PyObject *);
unsigned long PyLong_AsUnsignedLong(PyObject *);
ptrdiff_t PyLong_AsSsize_t(PyObject *);
unsigned long long PyLong_AsUnsignedLongLong(PyObject *);
double PyFloat_AsDouble(PyObject *);
static PyObject *handlers[512];
void set_handler(int i, PyObject *handler) { Py_IncRef(handler); handlers[i] = handler; }
"""
_kept: list[Any] = []  # what C points to


def signatures(module: ModuleType) -> dict[str, str]:
    """The C signature of every function that the module hands out, by name."""
    found = {}
    for name, capsule in module.__pyx_capi__.items():
        signature = _api.PyCapsule_GetName(capsule).decode()
        if "(" in signature:
            found[name] = signature
    return found


def trampoline(index: int, signature: str) -> str | None:
    """C source of the function that stands for a handler; None where a structure goes by value."""
    result, arguments = re.fullmatch(r"(.*?)\s*\((.*)\)", signature).groups()
    declared, letters, passed = [], "", []
    for i, argument in enumerate(filter(None, arguments.split(", "))):
        if argument == "void":
            continue
        if "__pyx_skip_dispatch" in argument:
            declared.append(f"int s{i}")
        elif "__pyx_opt_args" in argument:
            declared.append(f"void *o{i}")  # arguments with defaults, none of which the double looks at
        elif argument == "PyObject *":
            declared.append(f"PyObject *a{i}")
            letters, passed = letters + "O", [*passed, f"a{i}"]
        else:
            kind = _ALIASES.get(argument, argument)
            if kind not in _TYPES:
                return None
            declared.append(f"{kind} a{i}")
            letters, passed = letters + _TYPES[kind][0], [*passed, f"a{i}"]
    call = (
        f"PyObject_CallFunction(handlers[{index}], {', '.join([f'{chr(34)}({letters}){chr(34)}', *passed])})"
    )
    head = f"f{index}({', '.join(declared) or 'void'})"
    if result.endswith("*"):
        return f"PyObject *{head} {{ return {call}; }}"
    if result not in _TYPES:
        return None
    _, read, error = _TYPES[result]
    return (
        f"{result} {head} {{ PyObject *r = {call}; if (!r) return {error}; "
        f"{result} v = {read}(r); Py_DecRef(r); return v; }}"
    )


def swap(module: ModuleType, handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Replace functions of ``module``, for its C callers and for its Python callers."""
    known = signatures(module)
    if unknown := handlers.keys() - known.keys():
        raise KeyError(f"{module.__name__} has no functions {sorted(unknown)}")
    names = sorted(name for name in handlers if trampoline(0, known[name]) is not None)
    source = _HEAD + "\n".join(trampoline(i, known[name]) for i, name in enumerate(names))
    library = ctypes.PyDLL(str(compile_library(module.__name__.split(".")[-1], source, ["-O1"])))
    library.set_handler.argtypes = [ctypes.c_int, ctypes.py_object]
    library.set_handler.restype = None
    _kept.append(library)
    for i, name in enumerate(names):
        library.set_handler(i, handlers[name])
        signature = known[name].encode()
        _kept.append(signature)
        pointer = ctypes.cast(getattr(library, f"f{i}"), ctypes.c_void_p)
        module.__pyx_capi__[name] = _api.PyCapsule_New(pointer, signature, None)
    for name, handler in handlers.items():
        if hasattr(module, name):
            setattr(module, name, handler)
