"""The ``distgrad`` command."""

from __future__ import annotations

import sys

import click

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="distgrad", prog_name="distgrad")
def main() -> None:
    """Data-parallel training of neural networks on NumPy, CuPy and MPI."""


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Start a script on several ranks: distgrad run -n 2 train.py."""
    from distgrad.launch.__main__ import main as launch

    sys.exit(launch(arguments, program="distgrad run"))
