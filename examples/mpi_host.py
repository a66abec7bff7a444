"""What ``mpi_host.c`` calls on the ranks that train: a network learns sin(x) inside a program in C."""

import numpy as np
from mpi4py import MPI

import distgrad as dg


def train(handle: int) -> float:
    """Train on the ranks of an MPI communicator.

    Args:
        handle: as MPI_Comm_c2f or a Fortran program gives it.

    Returns:
        The last loss, the mean over all samples of these ranks.
    """
    comm = dg.comm.init(comm=MPI.Comm.f2py(handle))
    dg.manual_seed(0)
    net = dg.nn.Sequential(dg.nn.Linear(1, 32), dg.nn.Tanh(), dg.nn.Linear(32, 1))
    model = dg.parallel.DistributedDataParallel(net, comm)
    optimizer = dg.optim.Adam(model.parameters(), lr=0.01)
    x = np.random.default_rng(comm.rank).uniform(-3, 3, (64, 1)).astype(np.float32)
    for _ in range(200):
        optimizer.zero_grad()
        loss = dg.nn.functional.mse_loss(model(dg.tensor(x)), dg.tensor(np.sin(x)))
        loss.backward()
        optimizer.step()
    mean = comm.all_reduce(np.array([loss.item()]), "mean")
    print(f"rank {comm.rank} of {comm.size} trained, loss {mean[0]:.4f}", flush=True)
    return float(mean[0])
