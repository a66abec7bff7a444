"""PyTorch's names and meanings over distgrad's tensors: programs written for PyTorch run as they are.

::

    import distgrad.torch as torch
    import distgrad.torch.nn as nn
    from distgrad.torch.utils.data import DataLoader

or, with the program left as it is, ``python -m distgrad.torch train.py`` and ``distgrad run --torch``.

Nothing of networks, optimizers or data is here: the package is a table of names. A function of ``torch`` is a
line in ``distgrad/names/functions.py``; a submodule is an entry of ``PLACES`` in ``distgrad/names/rooms.py``
that says which modules are asked for its names, in order. To add a submodule, write that entry; or put a
module of that name into this package (``distgrad/torch/distributed.py``, and its name into ``FILES`` of
rooms.py). What is asked for and not there is an AttributeError or ModuleNotFoundError with its name
and, where there is one, the way.

Importing it makes tensors without axes weak where dtypes are chosen: ``dg.autograd.set_weak_scalars``.
"""

from typing import TYPE_CHECKING

from distgrad.torch.answers import names_of_torch as __dir__  # noqa: F401
from distgrad.torch.answers import open_rooms

if not TYPE_CHECKING:  # for whom a module with it has every name
    from distgrad.torch.answers import find_in_torch as __getattr__  # noqa: F401

open_rooms(__name__)
