"""What a step's products alone take: the best of the ways in which threads may compute them."""

import pytest

import distgrad as dg
from distgrad.scale.bench import step
from distgrad.scale.bench.workloads import Product
from distgrad.script import find_device


@pytest.mark.parametrize(("threads", "count", "ways"), [(1, 9, 1), (2, 1, 2), (2, 9, 3)])
def test_the_limit_is_the_best_of_all_ways(threads, count, ways, monkeypatch):
    before = dg.get_num_threads()
    took = iter([5.0, 3.0, 8.0, 1.0, 7.0, 9.0, 6.0, 2.0, 4.0])
    asked = []

    def best(multiply, device):
        multiply()
        asked.append(next(took))
        return asked[-1], 1.0

    monkeypatch.setattr(step, "_best", best)
    product = Product(8, 16, 4, count=count, input_gradient=False)
    clock, _ = step.product_time(product, "float32", find_device("cpu"), threads)
    dg.set_num_threads(before)
    assert len(asked) == 2 * ways
    stacked = [
        t / 8 if i == 2 else t for n in range(2) for i, t in enumerate(asked[n * ways : (n + 1) * ways])
    ]
    assert clock == count * (min(stacked[:ways]) + min(stacked[ways:]))
