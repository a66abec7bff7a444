"""Gradients of 16 bits, whose range ends at 65504 and 6e-8: the ranks' weights must keep them in it."""

import contextlib

import numpy as np
import pytest

import distgrad as dg
from distgrad.comm import ThreadWorld
from distgrad.parallel.adasum import adasum
from distgrad.parallel.compress import TopK, fp16
from distgrad.parallel.ddp import DistributedDataParallel


def narrow_gradient(comm, dtype, true_gradients, batches, num_passes=1, hook=None, half_parameters=True):
    """The mean gradient of a linear layer's weight, in a first step and behind one of equal batches."""
    dg.manual_seed(0)
    net = dg.nn.Linear(4, 1)
    dg.nn.init.zeros_(net.weight)
    model = DistributedDataParallel(net.to(dtype) if half_parameters else net, comm, hook=hook)
    gradients = []
    for counts in (batches, [batches[0]] * comm.size, batches):
        model.zero_grad()
        count = counts[comm.rank]
        x = np.full((count, 4), true_gradients[comm.rank], dtype if half_parameters else np.float32)
        for i in range(num_passes):
            with model.no_sync() if i < num_passes - 1 else contextlib.nullcontext():
                model(dg.Tensor(x)).mean().backward()
        gradients.append(net.weight.grad.numpy().astype(np.float64)[0, 0])
    return [gradients[0], gradients[2]]


NARROW = [
    ([300.0], [256], 1, 300.0),
    ([300.0] * 2, [256, 256], 1, 300.0),
    ([300.0] * 3, [8, 8, 2048], 1, 300.0),
    ([1e-5] * 3, [4096, 4096, 1], 1, 1e-5),
    ([300.0, 30.0], [256, 128], 4, 210.0),
    ([60000.0, 60000.0, 50000.0], [8, 8, 2048], 1, (60000 * 16 + 50000 * 2048) / 2064),
]


@pytest.mark.parametrize(("gradients", "batches", "num_passes", "expected"), NARROW)
def test_16_bit_gradients_have_their_range_whatever_the_weights(gradients, batches, num_passes, expected):
    """A scale taken from the last step, or from the number of samples, would take them out of it."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype, rtol in ((np.float16, 0.012), (bfloat16, 0.02)):
        for got in ThreadWorld(len(batches)).run(narrow_gradient, dtype, gradients, batches, num_passes):
            np.testing.assert_allclose(got, expected, rtol=rtol)


def plain_sum(bucket):
    return bucket.comm.all_reduce(bucket.gradients, async_op=True)


@pytest.mark.parametrize(("gradients", "batches", "num_passes", "expected"), NARROW)
@pytest.mark.parametrize("half_parameters", [True, False])
def test_hooks_keep_16_bit_gradients_in_range(gradients, batches, num_passes, expected, half_parameters):
    for hook in (
        fp16,
        adasum,
        TopK(1.0),
        lambda bucket: bucket.comm.all_reduce(bucket.gradients, async_op=True),
    ):
        if hook is adasum and len(set(gradients)) > 1:
            continue  # no mean
        arguments = np.float16, gradients, batches, num_passes, hook, half_parameters
        for got in ThreadWorld(len(batches)).run(narrow_gradient, *arguments):
            np.testing.assert_allclose(got, expected, rtol=0.012)
