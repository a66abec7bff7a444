"""Faults in parallel/, each with the tests of which one must fail on it."""

from mutation import Mutant

# fmt: off
MUTANTS = (
    Mutant(
        "stale numbers", "what lies in the place of a gradient that there is not is summed",
        "parallel/buckets.py",
        "            if not used:\n                self.gradients[where] = 0\n",
        "",
        "tests/parallel/test_ddp.py -k only_some_ranks_use",
    ),
    Mutant(
        "wrong number", "the sum over the ranks is taken for the mean",
        "parallel/buckets.py",
        "            own *= factor / total if total > 0.0 else 0.0\n",
        "            pass\n",
        "tests/parallel/test_ddp.py -k ranks_match_one_process",
    ),
    Mutant(
        "lost result", "a mean that was kept is not added to",
        "parallel/buckets.py",
        "            own += self._kept\n",
        "            pass\n",
        "tests/parallel/test_ddp.py -k second_backward",
    ),
    Mutant(
        "stale numbers", "a failed pass leaves its gradients",
        "parallel/buckets.py",
        "        if not usable:\n            self.gradients[...] = 0\n        elif",
        "        if usable and",
        "tests/parallel/test_passes.py -k before_a_failed_pass",
    ),
    Mutant(
        "wrong number", "the gradients of a pass are not weighted",
        "parallel/buckets.py",
        "        scale = weight / unit\n",
        "        scale = 1.0\n",
        "tests/parallel/test_ddp.py -k ranks_match_one_process",
    ),
    Mutant(
        "missing call", "gradients with a graph stay outside the buckets",
        "parallel/buckets.py",
        "        leaf.buffer[...] = leaf.grad._data\n        leaf.grad = Tensor(leaf.buffer)\n",
        "        leaf.grad = Tensor(leaf.buffer)\n",
        "tests/parallel/test_passes.py -k with_a_graph",
    ),
    Mutant(
        "wrong order", "buckets start from the last one that is full",
        "parallel/reducer.py",
        "sorted(buckets, key=lambda each: each[0])]",
        "sorted(buckets, key=lambda each: -each[0])]",
        "tests/parallel/test_ddp.py -k 'before_backward_ends or order_in_which'",
    ),
    Mutant(
        "wrong number", "a pass counts as the last of its forward passes alone",
        "parallel/reducer.py",
        "        return math.fsum(weights) if weights else 1.0\n",
        "        return weights[0] if weights else 1.0\n",
        "tests/parallel/test_passes.py -k counts_as_much",
    ),
    Mutant(
        "stale numbers", "gathered weight stays after a reduction",
        "parallel/reducer.py",
        '        """Wait for all buckets, which are over then, also where one ended badly."""\n'
        "        self._num_gathered, self._gathered, self.joined = 0, 0.0, False\n",
        '        """Wait for all buckets, which are over then, also where one ended badly."""\n',
        "tests/parallel/test_ddp.py -k ranks_match_one_process",
    ),
    Mutant(
        "missing call", "a rank that fails tells nobody",
        "parallel/reducer.py",
        "                    self._launch(0.0, failed=True)\n",
        "                    self._launch(0.0)\n",
        "tests/parallel/test_passes.py -k exception_in_one_ranks",
    ),
    Mutant(
        "wrong rounding", "bfloat16 is cut, not rounded",
        "parallel/compress.py",
        "(bits + (0x7FFF + ((bits >> 16) & 1))) >> 16",
        "bits >> 16",
        "tests/parallel/test_hooks.py -k bfloat16_rounds",
    ),
    Mutant(
        "lost result", "what a compressor leaves out is forgotten",
        "parallel/compress.py",
        "            gradients += error * gradients.dtype.type(bucket.total)\n",
        "            pass\n",
        "tests/parallel/test_hooks.py -k left_out_comes_later",
    ),
    Mutant(
        "wrong choice", "TopK sends the smallest elements",
        "parallel/compress.py",
        "xp.argpartition(xp.abs(own), size - count)",
        "xp.argpartition(-xp.abs(own), size - count)",
        "tests/parallel/test_hooks.py -k 'left_out_comes_later or learns'",
    ),
    Mutant(
        "wrong number", "Adasum subtracts the whole common part",
        "parallel/adasum.py",
        "1.0 - xy / (2.0 * xp.where",
        "1.0 - xy / (1.0 * xp.where",
        "tests/parallel/test_hooks.py -k adasum",
    ),
    Mutant(
        "wrong count", "local SGD counts its warm-up as periods",
        "parallel/localsgd.py",
        "            if (self.num_steps - self.warmup_steps) % period == 0:\n",
        "            if self.num_steps % period == 0:\n",
        "tests/parallel/test_averaging.py -k local_post_local",
    ),
    Mutant(
        "wrong number", "ranks average as if they had as many samples",
        "parallel/replicas.py",
        '"mean", weight=weight)',
        '"mean")',
        "tests/parallel/test_averaging.py -k averaged",
    ),
    Mutant(
        "wrong order", "shards are summed in the order in which they come",
        "parallel/exact.py",
        "                values[-1] += added[-1]\n",
        "                values[-1] += added[-1] * 1.0000001\n",
        "tests/parallel/test_exact.py -k same_bits_on_any_ranks",
    ),
    Mutant(
        "wrong key", "random numbers are keyed by the rank",
        "parallel/exact.py",
        "(self.step << _SHARD_BITS | shard) + 1)",
        "(self.step << _SHARD_BITS | self.comm.rank) + 1)",
        "tests/parallel/test_exact.py -k 'any_number_of_ranks and not slow'",
    ),
)
# fmt: on
