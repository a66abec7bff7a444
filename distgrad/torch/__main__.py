"""``python -m distgrad.torch train.py ARGS``: a program written for PyTorch, unchanged."""

import sys

from distgrad.torch.alias import NoProgramError, run

if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except NoProgramError as error:
        sys.exit(str(error))
