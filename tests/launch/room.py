"""A room of a job's own, in which it can be seen what the job leaves behind.

The room is a mount namespace: /dev/shm is empty in it, and over the folder of temporary files lies a layer
that takes whatever is written there. Other jobs of this machine write neither into the one nor the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_LAYER = "mnt/upper"
_SETUP = """
set -e
mount -t tmpfs room /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay room -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" "$1"
mount -t tmpfs room /dev/shm
echo ready
exec cat
"""


class Room:
    """Opened before a job, closed after it.

    Raises:
        OSError: this machine lets nobody have one; with the reason.
    """

    def __init__(self) -> None:
        for tool in ("unshare", "nsenter"):
            if shutil.which(tool) is None:
                raise OSError(f"a room of a job's own needs {tool}, of the package util-linux")
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _SETUP, "sh", tempfile.gettempdir()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = self._keeper.stdout.readline() if self._keeper.stdout is not None else ""
        if said != "ready\n":
            self.close()
            raise OSError(f"a room of a job's own cannot be had here: {said.strip()}")

    def inside(self, folder: Path) -> list[str]:
        """The beginning of a command that is to run in the room, in ``folder``."""
        return ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "env", "-C", str(folder)]

    def left(self) -> list[str]:
        """The files that lie in shared memory and among the temporary ones, and folders that hold none."""
        root = Path(f"/proc/{self._keeper.pid}/root")
        found = []
        for top, name in ((root / "dev/shm", "/dev/shm"), (root / _LAYER, tempfile.gettempdir())):
            for folder, folders, files in os.walk(top):
                lone = [""] if not (files or folders) and Path(folder) != top else files
                found += [str(Path(name, Path(folder, file).relative_to(top))) for file in lone]
        return sorted(found)

    def close(self) -> None:
        """Let it go; it ends with the last process in it."""
        self._keeper.communicate()
