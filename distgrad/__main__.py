"""``python -m distgrad``: the ``distgrad`` command."""

from distgrad.cli import main

if __name__ == "__main__":
    main(prog_name="python -m distgrad")
