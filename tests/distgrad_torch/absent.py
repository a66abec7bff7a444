"""Which of PyTorch's public names are not here: ``docs/guide/torch-absent.md``.

``python tests/distgrad_torch/absent.py --write`` writes the page anew, for which it needs ``torch``.
"""

import argparse
import importlib
import re
import sys
import textwrap
import types
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "torch-absent.md"
#: Modules that programs write the names of, behind ``torch``.
MODULES = [
    "",
    "Tensor",
    "nn",
    "nn.functional",
    "nn.init",
    "nn.utils",
    "nn.utils.rnn",
    "nn.utils.parametrize",
    "nn.utils.parametrizations",
    "nn.utils.prune",
    "nn.utils.stateless",
    "nn.attention",
    "nn.parallel",
    "optim",
    "optim.lr_scheduler",
    "optim.swa_utils",
    "utils.data",
    "utils.checkpoint",
    "autograd",
    "autograd.functional",
    "func",
    "linalg",
    "fft",
    "special",
    "distributions",
    "amp",
    "cuda",
    "cuda.amp",
    "accelerator",
    "distributed",
    "jit",
    "random",
    "testing",
    "masked",
    "sparse",
    "hub",
    "multiprocessing",
    "profiler",
    "compiler",
    "signal.windows",
]
_ALL = ("torch.nn", "torch.nn.functional", "torch.distributed")  # whose __all__ leaves most names out
_PYTHON = ("abc", "collections.abc", "datetime", "typing")


def find(package, name):
    """A module or class of a package."""
    for part in name.split(".") if name else ():
        package = getattr(package, part)
    return package


def public(owner):
    """The public names of a module or class."""
    listed = getattr(owner, "__all__", None)
    if listed and owner.__name__ not in _ALL:
        return sorted(name for name in listed if not name.startswith("_"))
    found = []
    for name in dir(owner):
        value = getattr(owner, name, None)
        foreign = isinstance(value, types.ModuleType) or getattr(value, "__module__", "") in _PYTHON
        if not name.startswith("_") and not foreign:
            found.append(name)
    return sorted(found)


def has(owner, name):
    """Whether there is such a name, and more to it than the name."""
    from distgrad.names.deferred import DEFERRED, DTYPES

    module = owner.__name__.partition("torch")[2].removeprefix(".") if hasattr(owner, "__name__") else None
    if name in DEFERRED.get(module, "").split() or (module == "" and name in DTYPES.split()):
        return False
    try:
        getattr(owner, name)
    except AttributeError:
        return False
    return True


def compare(theirs, ours):
    """By module: how many public names PyTorch has, and those that are not here."""
    warnings.simplefilter("ignore")
    found = {}
    for module in MODULES:
        if module not in ("", "Tensor"):
            importlib.import_module(f"torch.{module}")
        names = public(find(theirs, module))
        place = find(ours, module)
        found[module] = len(names), [name for name in names if not has(place, name)]
    return found


def read():
    """The page's own account: PyTorch's version, and by module what is absent."""
    text = PAGE.read_text()
    version = re.search(r"PyTorch (\d+\.\d+)", text).group(1)
    absent = {}
    for section in text.split("\n## `torch")[1:]:
        module = section.split("`")[0].removeprefix(".")
        absent[module] = sorted(re.findall(r"`([^`]+)`", section.split("\n", 1)[1]))
    return version, absent


def page(version, found, way_around):
    """The page's text."""
    missing = sum(len(names) for _, names in found.values())
    total = sum(count for count, _ in found.values())
    lines = [
        "# PyTorch's names that are not here",
        "",
        f"Of {total} public names of PyTorch {version} in these modules {missing} are absent from",
        "`distgrad.torch`: types of its compiler, quantized tensors, kernels of single libraries, and what",
        "few programs use. A program that asks for one gets an `AttributeError` with the name and, where",
        "there is one, the way. Types that libraries only name, to ask `isinstance` or to annotate",
        "(`SymInt`, `float8_e4m3fn`), can be named: nothing is of them, and asking for one is that error.",
        "Which of those that are here match is said in [names](torch-names.md).",
        "`python tests/distgrad_torch/absent.py --write` writes this page.",
    ]
    for module, (count, names) in found.items():
        title = f"torch.{module}".rstrip(".")
        lines += ["", f"## `{title}`", "", f"{count - len(names)} of {count} are here."]
        ways = {}
        for name in names:
            ways.setdefault(way_around(f"{module}.{name}".lstrip(".")), []).append(name)
        lines += [""] if names else []
        for way, group in sorted(ways.items(), key=lambda pair: (pair[0] is None, -len(pair[1]))):
            text = f"- {way or 'others'}: " + ", ".join(f"`{name}`" for name in group)
            lines += textwrap.wrap(text, 118, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def main(arguments):
    """Print how many are absent by module; with ``--write`` write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    import torch

    from distgrad.names.absent import way_around

    found = compare(torch, importlib.import_module("distgrad.torch"))
    for module, (count, names) in found.items():
        print(f"torch.{module}: {len(names)} of {count}")
    if options.write:
        PAGE.write_text(page(".".join(torch.__version__.split(".")[:2]), found, way_around))


if __name__ == "__main__":
    main(sys.argv[1:])
