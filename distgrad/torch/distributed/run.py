"""``python -m distgrad.torch.distributed.run``: torchrun's command, for programs written for PyTorch.

It is ``distgrad run --torch``, whose options it takes; those of torchrun are understood there.
"""

import sys

from distgrad.launch.__main__ import main as launch

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Start a program on several ranks; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return launch(["--torch", *given], program="python -m distgrad.torch.distributed.run")


if __name__ == "__main__":
    sys.exit(main())
