"""Faults in checkpoint/, each with the tests of which one must fail on it."""

from mutation import Mutant

# fmt: off
MUTANTS = (
    Mutant(
        "missing check", "a changed byte is not found",
        "checkpoint/files.py",
        "    if notes.pop(_DIGEST, None) != _digest(arrays, notes):\n",
        "    notes.pop(_DIGEST, None)\n    if False:\n",
        "tests/checkpoint/test_files.py -k changed_byte",
    ),
    Mutant(
        "half written", "a file is written in its place",
        "checkpoint/files.py",
        "        os.replace(temporary, path)\n",
        "        shutil.copyfile(temporary, path)\n",
        "tests/checkpoint/test_files.py -k reads_it_whole",
    ),
    Mutant(
        "left behind", "what a killed process left stays",
        "checkpoint/files.py",
        "    _sweep(path.parent)\n",
        "",
        "tests/checkpoint/test_files.py -k killed_process",
    ),
    Mutant(
        "left behind", "the folder of a write stays",
        "checkpoint/files.py",
        "        shutil.rmtree(folder, ignore_errors=True)\n        if lock",
        "        if lock",
        "tests/checkpoint/test_files.py -k failed_write",
    ),
    Mutant(
        "missing lock", "a sweep takes what others are writing",
        "checkpoint/files.py",
        "        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        "tests/checkpoint/test_files.py -k side_by_side",
    ),
    Mutant(
        "lost result", "two keys of one place are one array",
        "checkpoint/tree.py",
        "    while name in arrays or name == _NOT_A_NAME:",
        "    while name == _NOT_A_NAME:",
        "tests/checkpoint/test_files.py -k 'nested_state or keys or key'",
    ),
    Mutant(
        "wrong kind", "tuples come back as lists",
        "checkpoint/tree.py",
        '    return {"list": list, "tuple": tuple}[kind](values)\n',
        "    return values\n",
        "tests/checkpoint/test_files.py -k nested_state",
    ),
    Mutant(
        "wrong kind", "scalars come back as arrays",
        "checkpoint/tree.py",
        "        return array(content)[()]\n",
        "        return array(content)\n",
        "tests/checkpoint/test_files.py -k 'kinds_of_dict'",
    ),
    Mutant(
        "wrong layout", "arrays of the other byte order are written as they lie",
        "checkpoint/tree.py",
        'np.ascontiguousarray(array, array.dtype.newbyteorder("="))',
        "np.ascontiguousarray(array)",
        "tests/checkpoint/test_files.py -k byte_order",
    ),
    Mutant(
        "missing check", "a pickle is read unasked",
        "checkpoint/files.py",
        '    if head[:1] == b"\\x80" and allow_pickle:\n',
        '    if head[:1] == b"\\x80":\n',
        "tests/checkpoint/test_files.py -k pickles",
    ),
    Mutant(
        "missing check", "metadata may take our names",
        "checkpoint/files.py",
        "    if reserved:\n",
        "    if False:\n",
        "tests/checkpoint/test_files.py -k metadata",
    ),
    Mutant(
        "wrong layout", "floats of 4 bits change places in their byte",
        "checkpoint/files.py",
        "np.stack([data & 15, data >> 4], axis=-1)",
        "np.stack([data >> 4, data & 15], axis=-1)",
        "tests/checkpoint/test_foreign_files.py -k below_16",
    ),
    Mutant(
        "half written", "a checkpoint gets its name before its manifest",
        "checkpoint/writer.py",
        "            _write_text(job.part / MANIFEST, self._merged(job, self._gather(job)).to_json())\n",
        "            self._gather(job)\n",
        "tests/checkpoint/test_manager.py -k never_stopped",
    ),
    Mutant(
        "lost", "a step saved again is removed first",
        "checkpoint/writer.py",
        "                final.rename(before)\n",
        "                shutil.rmtree(final)\n",
        "tests/checkpoint/test_manager.py -k saved_again",
    ),
    Mutant(
        "missing check", "ranks that differ are made a patchwork of",
        "checkpoint/manager.py",
        "            self._compare(state)\n",
        "",
        "tests/checkpoint/test_manager.py -k told_apart",
    ),
    Mutant(
        "missing check", "changed bytes are read",
        "checkpoint/pieces.py",
        "                if verify and part.size",
        "                if False and part.size",
        "tests/checkpoint/test_manager.py -k changed_bytes",
    ),
    Mutant(
        "wrong part", "shares of an array overlap",
        "checkpoint/layout.py",
        "    first, last = (total * each // num_ranks for each in (rank, rank + 1))\n",
        "    first, last = (total * each // num_ranks for each in (rank, rank + 2))\n",
        "tests/checkpoint/test_manager.py -k shares",
    ),
    Mutant(
        "lost", "a signal between two steps is not agreed on",
        "checkpoint/ending.py",
        "        self._flag = np.array([self.why is not None], np.int32)\n",
        "        self._flag = np.array([False], np.int32)\n",
        "tests/checkpoint/test_manager.py -k a_job_that_is_killed",
    ),
)
# fmt: on
