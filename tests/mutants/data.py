"""Faults in data/, each with the tests of which one must fail on it."""

from mutation import Mutant

# fmt: off
MUTANTS = (
    Mutant(
        "wrong count", "every rank takes every row of a stream",
        "data/collate.py",
        "    own = batch[share.rank :: share.ranks]\n",
        "    own = batch\n",
        "tests/data/test_streams.py -k every_row_once",
    ),
    Mutant(
        "wrong place", "a stream begins anew in mid-epoch",
        "data/place.py",
        "        for start in range(self._counts[lane], piece.start, total):\n",
        "        for start in range(piece.start, piece.start, total):\n",
        "tests/data/test_streams.py -k any_number_of_ranks",
    ),
    Mutant(
        "wrong count", "ranks draw the same samples",
        "data/sampler.py",
        "slice(self._begin() + self.rank, self.total_size, self.num_replicas)",
        "slice(self._begin(), self.total_size, self.num_replicas)",
        "tests/data/test_sampler.py -k exactly_one_rank",
    ),
    Mutant(
        "wrong key", "every epoch has one order",
        "data/sampler.py",
        "Generator(self.seed, stream=self.epoch)",
        "Generator(self.seed)",
        "tests/data/test_sampler.py -k seed_and_epoch",
    ),
    Mutant(
        "wrong count", "the last batch is lost",
        "data/sampler.py",
        "        return left // step if self.drop_last else -(-left // step)\n",
        "        return left // step\n",
        "tests/data/test_sampler.py -k 'batches or empty'",
    ),
    Mutant(
        "state kept", "a resumed place is taken in every epoch",
        "data/sampler.py",
        "        start, self._index = self._index, 0\n        return start\n",
        "        return self._index\n",
        "tests/data/test_resume.py -k 'rest_of_an_epoch'",
    ),
    Mutant(
        "state kept", "a place outlives the epoch that it belongs to",
        "data/sampler.py",
        "        if epoch != self.epoch:\n            self._index = 0\n",
        "",
        "tests/data/test_resume.py tests/data/test_sampler.py",
    ),
    Mutant(
        "wrong order", "a subset is read in its dataset's own order",
        "data/dataset.py",
        "        return self.dataset[int(self.indices[index])]\n",
        "        return self.dataset[int(index)]\n",
        "tests/data/test_loader.py -k 'random_split or subclass'",
    ),
    Mutant(
        "wrong place", "the second of several datasets begins at its own end",
        "data/dataset.py",
        "(self.cumulative_sizes[part - 1] if part else 0)]",
        "(self.cumulative_sizes[part - 1] if part > 1 else 0)]",
        "tests/data/test_loader.py -k one_after_another",
    ),
    Mutant(
        "missing check", "samples of other lengths are cut to the first's",
        "data/collate.py",
        '        _check_alike("length", [len(sample) for sample in batch])\n'
        "        columns = [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch, "
        "strict=True)]\n",
        "        columns = [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch, "
        "strict=False)]\n",
        "tests/data/test_loader.py -k collate",
    ),
    Mutant(
        "wrong layout", "an empty batch has a row",
        "data/collate.py",
        "        return Tensor(batch._data[:0])\n",
        "        return Tensor(batch._data[:1])\n",
        "tests/data/test_loader.py -k empty_batch",
    ),
    Mutant(
        "wrong choice", "a subclass that changes its samples is passed over",
        "data/collate.py",
        "    while type(dataset) is Subset:",
        "    while isinstance(dataset, Subset):",
        "tests/data/test_loader.py -k subclass",
    ),
    Mutant(
        "wrong key", "random numbers of workers depend on the worker",
        "data/worker.py",
        "        _seed_all(self._seed, number)\n",
        "        _seed_all(self._seed + _info.id, number)\n",
        "tests/data/test_workers.py -k random_numbers",
    ),
    Mutant(
        "wrong order", "a batch is written over before it was taken",
        "data/worker_pool.py",
        "            batch = self._slots[worker][slot].load(*content) if kind == \"batch\" else END\n"
        "            free[worker].append(slot)\n",
        "            free[worker].append(slot)\n"
        "            issue()\n"
        "            batch = self._slots[worker][slot].load(*content) if kind == \"batch\" else END\n",
        "tests/data/test_workers.py -k 'users_own_memory or order_are_those'",
    ),
    Mutant(
        "left behind", "a loader's workers outlive it",
        "data/worker_pool.py",
        "            worker.wait(_EXIT_S)\n"
        "        except subprocess.TimeoutExpired:\n"
        "            worker.kill()\n"
        "            worker.wait()\n",
        "            worker.wait(0.0)\n        except subprocess.TimeoutExpired:\n            pass\n",
        "tests/data/test_workers.py -k 'leaving_in_the_middle or persistent'",
    ),
    Mutant(
        "wrong place", "targets are the inputs",
        "data/tokens.py",
        "        return window[:-1], window[1:]\n",
        "        return window[:-1], window[:-1]\n",
        "tests/data/test_files.py -k windows_of_tokens",
    ),
    Mutant(
        "wrong count", "a stream loses what is left of a block",
        "data/text.py",
        "            rest = tokens[count * self.length :]\n",
        "            rest = tokens[:0]\n",
        "tests/data/test_files.py -k each_window_once",
    ),
    Mutant(
        "wrong count", "workers of a rank share its windows with the other ranks",
        "data/stream.py",
        "self.rank + worker * self.num_replicas, ",
        "self.rank + worker, ",
        "tests/data/test_files.py -k 'workers_of_ranks'",
    ),
)
# fmt: on
