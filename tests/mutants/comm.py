"""Faults in comm/, each with the tests of which one must fail on it."""

from mutation import Mutant

# fmt: off
MUTANTS = (
    Mutant(
        "wrong number", "a mean is a sum",
        "comm/averaging.py",
        "        flat /= self.size\n",
        "        pass\n",
        "tests/comm/test_contract.py -k 'test_threads and reduce'",
    ),
    Mutant(
        "wrong number", "weights of a mean do not add up",
        "comm/averaging.py",
        '        self._all_reduce(total, "sum")\n        share',
        "        share",
        "tests/comm/test_contract.py -k 'test_threads and weight'",
    ),
    Mutant(
        "wrong rounding", "16-bit means are added in 16 bits",
        "comm/averaging.py",
        '        if op == "mean" and is_narrow(flat.dtype):\n',
        "        if False:\n",
        "tests/comm/test_contract.py -k 'test_threads and (narrow or half or 16 or mean)'",
    ),
    Mutant(
        "wrong rounding", "16-bit sums round after every rank",
        "comm/reduction.py",
        "    if is_narrow(first.dtype):\n",
        "    if False:\n",
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "stale numbers", "a reduction writes over what is yet to be read",
        "comm/reduction.py",
        "    if any(np.may_share_memory(total, array) for array in rest[1:]):  # which are yet to "
        "be read\n",
        "    if False:\n",
        "tests/comm/test_contract.py tests/comm/test_threads.py -k 'test_threads or order'",
    ),
    Mutant(
        "wrong count", "the last elements of a long array are not reduced",
        "comm/reduction.py",
        "            for start in range(0, length, step):\n",
        "            for start in range(0, length - step, step):\n",
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "wrong order", "minimum and maximum change places",
        "comm/reduction.py",
        '"min": np.minimum, "max": np.maximum',
        '"min": np.maximum, "max": np.minimum',
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "missing check", "out may lie in what is read meanwhile",
        "comm/arrays.py",
        "    if isinstance(x, np.ndarray) and np.may_share_memory(x, out):\n",
        "    if False:\n",
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "missing check", "a read-only array is overwritten",
        "comm/arrays.py",
        '    if not getattr(x.flags, "writeable", True):  # device arrays have no such flag\n',
        "    if False:\n",
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "wrong place", "parts of unequal lengths are cut by even ones",
        "comm/arrays.py",
        "    return [0, *itertools.accumulate(counts)]\n",
        "    return [0, *itertools.accumulate([length // size] * size)]\n",
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "wrong place", "places of rows are taken for those of elements",
        "comm/arrays.py",
        "    return [edge * row for edge in edges]\n",
        "    return list(edges)\n",
        "tests/comm/test_contract.py -k test_threads",
    ),
    Mutant(
        "wrong count", "a scan leaves its own rank out",
        "comm/unequal.py",
        "rows[: self.rank + 1], op)",
        "rows[: max(1, self.rank)], op)",
        "tests/comm/test_contract.py -k 'test_threads and scan'",
    ),
    Mutant(
        "wrong place", "an unequal exchange takes the sender's length",
        "comm/unequal.py",
        "row[: theirs[here]].copy()",
        "row[: theirs[0]].copy()",
        "tests/comm/test_contract.py -k 'test_threads'",
    ),
    Mutant(
        "missing check", "ranks that issue other calls are not found",
        "comm/threads.py",
        "        if any(mark != self._mark for mark, _ in entries):\n",
        "        if False:\n",
        "tests/comm/test_mismatch.py -k test_threads",
    ),
    Mutant(
        "missing check", "calls of other shapes have one fingerprint",
        "comm/calls.py",
        "        return digest ^ hash(self.shape) ^ self.number\n",
        "        return digest ^ self.number\n",
        "tests/comm/test_mismatch.py -k test_threads",
    ),
    Mutant(
        "missing check", "a label that differs is received",
        "comm/pipeline.py",
        "        if sent != expected:\n",
        "        if False:\n",
        "tests/comm/test_contract.py -k 'test_threads and (send or recv or message)'",
    ),
    Mutant(
        "missing wait", "ranks leave a reduction before all have read",
        "comm/threads.py",
        "        reduce_arrays([array[start:stop] for array in self._meet(x)], [out], op)\n"
        "        self._meet()\n",
        "        reduce_arrays([array[start:stop] for array in self._meet(x)], [out], op)\n",
        "tests/comm/test_contract.py -k 'test_threads'",
    ),
    Mutant(
        "error swallowed", "what a collective raises is forgotten",
        "comm/work.py",
        "        if self._error is not None:\n            raise self._error\n",
        "",
        "tests/comm/test_mismatch.py tests/comm/test_faults.py -k threads",
    ),
)
# fmt: on
