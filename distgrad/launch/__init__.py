"""Start ranks and watch them: in a checkout, the files of its top-level folder ``launch``.

A wheel has that folder in this one's place, and this file in none.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "launch")]
