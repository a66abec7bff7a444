"""A program as users write it; type checkers must know what every line of it gives."""

from typing import assert_type

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, Dataset, TensorDataset
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel


class Net(nn.Module):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(8, 2)

    def forward(self, x: dg.Tensor) -> dg.Tensor:
        hidden = assert_type(self.layers(x), dg.Tensor)
        return assert_type(self.head(hidden), dg.Tensor)


class Numbers(Dataset[tuple[np.ndarray, int]]):
    """Rows and labels."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full(4, index, np.float32), index % 2

    def __len__(self) -> int:
        return 8


def collate(samples: list[tuple[np.ndarray, int]]) -> tuple[dg.Tensor, int]:
    return dg.asarray(np.stack([x for x, _ in samples])), len(samples)


def compute() -> None:
    x = assert_type(dg.asarray([[0.5, 0.25], [1.0, 2.0]]), dg.Tensor)
    y = assert_type(dg.exp(x), dg.Tensor)
    assert_type(dg.matmul(x, y), dg.Tensor)
    assert_type(x @ y + 1.0, dg.Tensor)
    assert_type(2.0 * x, dg.Tensor)
    assert_type(dg.concat([x, y], axis=0).sum(), dg.Tensor)
    assert_type(dg.sum(x, axis=0, keepdims=True), dg.Tensor)
    assert_type(dg.where(x > 0.5, x, 0.0), dg.Tensor)
    assert_type(dg.einsum("ij,jk->ik", x, y), dg.Tensor)
    assert_type(dg.split(x, 1), tuple[dg.Tensor, ...])
    assert_type(dg.cummax(x, 0), tuple[dg.Tensor, dg.Tensor])
    assert_type(dg.linalg.inv(x), dg.Tensor)
    assert_type(dg.linalg.lu(x), tuple[dg.Tensor, dg.Tensor, dg.Tensor])
    assert_type(dg.fft.rfft(x), dg.Tensor)
    assert_type(dg.special.digamma(x), dg.Tensor)
    assert_type(dg.exp(np.ones(3)), dg.Tensor)
    assert_type(dg.float32.itemsize, int)
    assert_type(x[0].reshape(-1).mean(), dg.Tensor)
    assert_type(x.shape[1:].numel(), int)
    assert_type(dg.sum(x, 0), dg.Tensor)
    assert_type(F.relu(x), dg.Tensor)
    assert_type(F.softmax(x, dim=-1), dg.Tensor)
    assert_type(dg.scaled_dot_product_attention(x, x, x, is_causal=True), dg.Tensor)


def train() -> None:
    model = Net()
    optimizer = dg.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in DataLoader(Numbers(), batch_size=4, shuffle=True):
        inputs, labels = assert_type(batch, list[dg.Tensor])
        optimizer.zero_grad()
        loss = assert_type(F.cross_entropy(assert_type(model(inputs), dg.Tensor), labels), dg.Tensor)
        loss.backward()
        optimizer.step()
    for rows, count in DataLoader(Numbers(), batch_size=4, collate_fn=collate):
        assert_type(rows, dg.Tensor)
        assert_type(count, int)
    for x, y in DataLoader(TensorDataset(dg.zeros((4, 2)), dg.ones(4)), 2):
        assert_type(dg.stack([x[:, 0], y]), dg.Tensor)
    state = model.state_dict()
    dg.save(state, "state.safetensors")
    model.load_state_dict(dg.load("state.safetensors"))


def reduce() -> None:
    comm = dg.comm.init()
    x = np.ones(4, np.float32)
    assert_type(comm.all_reduce(x).dtype, np.dtype[np.float32])
    work = comm.all_reduce(x, async_op=True)
    assert_type(work.wait().dtype, np.dtype[np.float32])
    assert_type(comm.all_gather(x).dtype, np.dtype[np.float32])
    comm.broadcast(x, root=0, async_op=True).wait()
    gathered = comm.gather(x, root=0)
    if gathered is not None:
        assert_type(gathered.dtype, np.dtype[np.float32])
        comm.scatter(x, gathered, async_op=True).wait()
    comm.barrier()
    comm.barrier(async_op=True).wait()
    if comm.size > 1:
        comm.send(x, 1)
        assert_type(comm.recv(x, 0).dtype, np.dtype[np.float32])


def wrap(comm: dg.comm.Communicator) -> None:
    ddp = assert_type(DistributedDataParallel(Net(), comm), DistributedDataParallel[Net])
    assert_type(ddp.module, Net)
    assert_type(ddp(dg.zeros((2, 4))), dg.Tensor)


if __name__ == "__main__":
    compute()
    train()
    reduce()
    wrap(dg.comm.init())
