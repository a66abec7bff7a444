"""Faults in optim/, each with the tests of which one must fail on it."""

from mutation import Mutant

# fmt: off
MUTANTS = (
    Mutant(
        "state kept", "a parameter of which a file holds no state keeps its old one",
        "optim/stateful.py",
        "            self._states.forget(parameter)\n            self._steps[parameter] = steps =",
        "            self._steps[parameter] = steps =",
        "tests/optim/test_optimizers.py -k anew",
    ),
    Mutant(
        "wrong count", "steps are counted twice",
        "optim/optimizer.py",
        "            self._steps[parameter] += 1\n",
        "            self._steps[parameter] += 2\n",
        "tests/optim/test_values.py -k plain_recomputation",
    ),
    Mutant(
        "state kept", "zero_grad leaves gradients as they are",
        "optim/optimizer.py",
        "                    parameter.grad._data[...] = 0\n",
        "                    pass\n",
        "tests/optim/test_optimizers.py -k closure_and_zero_grad",
    ),
    Mutant(
        "lost result", "a step of 16-bit parameters is not written back",
        "optim/optimizer.py",
        "        if wide is not p:\n",
        "        if False:\n",
        "tests/optim/test_sixteen_bits.py",
    ),
    Mutant(
        "wrong choice", "a group takes an option on which any saved group agrees",
        "optim/matching.py",
        "and all(other.get(option) == value",
        "and any(other.get(option) == value",
        "tests/optim/test_optimizers.py -k agree",
    ),
    Mutant(
        "missing check", "arrays of other shapes are loaded",
        "optim/stateful.py",
        "                    if tuple(entry[name].shape) != shape:\n",
        "                    if False:\n",
        "tests/optim/test_optimizers.py -k does_not_fit",
    ),
    Mutant(
        "missing check", "a negative learning rate is taken",
        "optim/optimizer.py",
        "            if option in group and not group[option] >= 0.0:\n",
        "            if False:\n",
        "tests/optim/test_optimizers.py -k refused",
    ),
    Mutant(
        "stale version", "a step is no in-place change",
        "optim/optimizer.py",
        '            parameter.changed(f"{type(self).__name__}.step")\n',
        "",
        "tests/optim/test_optimizers.py -k in_place",
    ),
    Mutant(
        "wrong number", "an average forgets itself in its count",
        "optim/swa_utils.py",
        "(int(num_averaged) + 1)",
        "(int(num_averaged) + 2)",
        "tests/optim/test_swa_utils.py -k mean_of_what",
    ),
    Mutant(
        "wrong number", "the exponential average has its weights exchanged",
        "optim/swa_utils.py",
        "        return decay * a + (1.0 - decay) * p\n",
        "        return (1.0 - decay) * a + decay * p\n",
        "tests/optim/test_swa_utils.py -k averages_equal",
    ),
    Mutant(
        "wrong sign", "a plateau asks for less than the best, not for a margin",
        "optim/lr_scheduler/plateau.py",
        "value < self.best - margin if",
        "value < self.best + margin if",
        "tests/optim/test_schedulers.py -k plateau",
    ),
    Mutant(
        "state kept", "a plateau goes on counting while it cools down",
        "optim/lr_scheduler/plateau.py",
        "            self.cooldown_counter -= 1\n            self.num_bad_epochs = 0\n",
        "            self.cooldown_counter -= 1\n",
        "tests/optim/test_schedulers.py -k plateau",
    ),
    Mutant(
        "wrong number", "warm restarts do not lengthen their periods",
        "optim/lr_scheduler/schedules.py",
        "self.T_cur - self.T_i, self.T_i * self.T_mult",
        "self.T_cur - self.T_i, self.T_i",
        "tests/optim/test_schedulers.py -k 'rates_equal and Restarts'",
    ),
    Mutant(
        "state kept", "an overflow does not start the count of good steps anew",
        "optim/grad_scaler.py",
        "            self._scale *= self._backoff_factor\n            self._growth_tracker = 0\n",
        "            self._scale *= self._backoff_factor\n",
        "tests/optim/test_grad_scaler.py -k scales_and",
    ),
    Mutant(
        "missing check", "a step with an infinity is taken",
        "optim/grad_scaler.py",
        "        self._stepped[optimizer] = finite = self._finite.pop(optimizer)\n",
        "        self._stepped[optimizer] = finite = self._finite.pop(optimizer) or True\n",
        "tests/optim/test_grad_scaler.py -k 'overflow_on_one'",
    ),
)
# fmt: on
