"""Tensors in memory that processes share, with PyTorch's names."""

import gc
import os
import subprocess
import sys
import textwrap

import pytest

import distgrad.torch as torch
from distgrad.torch import nn

PROGRAM = """
    import sys

    import torch
    import torch.multiprocessing as mp
    import torch.nn as nn
    import torch.nn.functional as F
    import torch.optim as optim


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)

        def forward(self, x):
            return self.last(torch.tanh(self.norm(self.first(x))))


    def batch(seed):
        torch.manual_seed(seed)
        x = torch.randn(64, 4)
        return x, x.sum(1, keepdim=True)


    def train(rank, model, counts, queue, received):
        optimizer = optim.SGD(model.parameters(), lr=0.05)
        for i in range(40):
            x, y = batch(100 * rank + i)
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        counts[rank] += 40
        queue.put((rank, counts))
        assert all(p.is_shared() for p in model.parameters())
        assert received.wait(60)  # whoever sends a tensor stays until it was taken


    if __name__ == "__main__":
        mp.set_start_method(sys.argv[1], force=True)
        torch.manual_seed(0)
        model, counts = Net(), torch.zeros(2)
        before = F.mse_loss(model(batch(7)[0]), batch(7)[1]).item()
        model.share_memory()
        counts.share_memory_()
        queue, taken = mp.Queue(), mp.Event()
        processes = [mp.Process(target=train, args=(rank, model, counts, queue, taken)) for rank in range(2)]
        for process in processes:
            process.start()
        received = [queue.get() for _ in range(2)]
        taken.set()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert all(tensor.is_shared() for _, tensor in received)
        after = F.mse_loss(model(batch(7)[0]), batch(7)[1]).item()
        print(after < 0.5 * before, counts.tolist(), received[0][1].tolist())
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes_train_one_model(tmp_path, method):
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, "-m", "distgrad.torch", str(path), method], capture_output=True, text=True,
        timeout=100, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True [40.0, 40.0] [40.0, 40.0]\n"


def test_what_is_shared_keeps_its_values_and_lets_go_of_its_memory():
    gc.collect()  # of what other tests have left
    descriptors = len(os.listdir("/proc/self/fd"))
    net, x = nn.Linear(3, 2), torch.arange(5)
    values = [p.tolist() for p in net.parameters()]
    assert not net.weight.is_shared()
    assert net.share_memory() is net
    assert x.share_memory_() is x
    assert net.weight.is_shared()
    assert x.is_shared()
    assert [p.tolist() for p in net.parameters()] == values
    assert x.tolist() == [0, 1, 2, 3, 4]
    assert x.share_memory_() is x  # once more is nothing
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert net.bias.tolist() == pytest.approx([v - 0.5 for v in values[1]])
    assert net.weight.is_shared()
    del net, x, optimizer
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
