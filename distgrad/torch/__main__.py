"""``python -m distgrad.torch train.py ARGS``: a program written for PyTorch, unchanged."""

import sys

from distgrad.errors import OptionError
from distgrad.torch.alias import run

if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except OptionError as error:
        sys.exit(str(error))
