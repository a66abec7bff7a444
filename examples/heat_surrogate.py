"""Train a surrogate of a solver inside the simulation that makes its data.

Heat flows along a ring of cells whose conductivity grows with the temperature; the ring is dealt out to the
ranks, which exchange their borders with mpi4py. While the solver runs, each rank keeps pairs of (cells around
a place, change at the place MANY small steps later) from its own part, in memory, and all ranks train one
network on them. Afterwards the network takes MANY steps at once.

    mpirun -n 2 python examples/heat_surrogate.py
    distgrad run -n 2 --backend mpi examples/heat_surrogate.py
"""

import argparse

import numpy as np
from mpi4py import MPI

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, TensorDataset
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, join

MANY = 40  # solver steps that one evaluation of the network replaces
REACH = 12  # cells to each side that it sees
DT = 0.1  # in units of the time that heat takes from cell to cell at temperature 0


def with_borders(u, width, world):
    """This rank's cells between ``width`` cells of its neighbours on the ring."""
    left, right = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    before, after = np.empty(width), np.empty(width)
    world.Sendrecv(np.ascontiguousarray(u[-width:]), right, recvbuf=before, source=left)
    world.Sendrecv(np.ascontiguousarray(u[:width]), left, recvbuf=after, source=right)
    return np.concatenate([before, u, after])


def solve(u, num_steps, world):
    """Explicit finite volumes for du/dt = d/dx((1 + u^2) du/dx)."""
    for _ in range(num_steps):
        wide = with_borders(u, 1, world)
        middle = 0.5 * (wide[1:] + wide[:-1])
        u = u + DT * np.diff((1.0 + middle**2) * np.diff(wide))
    return u


def random_state(num_cells, world, rng):
    """Smooth temperatures, as different from rank to rank as from run to run."""
    x = np.arange(num_cells) / num_cells
    waves = range(1, 9)
    u = sum(rng.normal() / k * np.sin(2 * np.pi * (k * x + rng.random())) for k in waves)
    u -= np.linspace(u[0], u[-1], num_cells)
    return 1.5 * u / np.abs(u).max()  # beyond 2 the solver's steps would be too long


def patches(u, world):
    """float32 [cells, 2 REACH + 1]: every cell with those around it."""
    wide = with_borders(u, REACH, world)
    return np.lib.stride_tricks.sliding_window_view(wide, 2 * REACH + 1).astype(np.float32)


def build_model(num_cells):
    return nn.Sequential(nn.Linear(num_cells, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))


def simulate(num_runs, num_cells, world, rng):
    """The solver's runs: patches, and what happens to their middles, of this rank's own part."""
    inputs, changes = [], []
    for _ in range(num_runs):
        u = random_state(num_cells, world, rng)
        for _ in range(5):
            after = solve(u, MANY, world)
            inputs.append(patches(u, world))
            changes.append((after - u).astype(np.float32)[:, None])
            u = after
    return TensorDataset(np.concatenate(inputs), np.concatenate(changes))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=256, help="on each rank")
    parser.add_argument("--runs", type=int, default=40, help="initial states that the solver starts from")
    parser.add_argument("--epochs", type=int, default=30)
    add_device_option(parser)
    args = parser.parse_args()

    world = MPI.COMM_WORLD
    _, device = join(args.device, "mpi" if args.device == "cpu" else None)  # the ranks of COMM_WORLD
    samples = simulate(args.runs, args.cells, world, np.random.default_rng(world.rank))
    scale = float(np.sqrt(world.allreduce(np.mean(samples.tensors[1] ** 2)) / world.size))

    dg.manual_seed(0)
    net = build_model(2 * REACH + 1)
    model = DistributedDataParallel(net.to(device))
    optimizer = dg.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = dg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    for epoch in range(args.epochs):
        losses = []
        for x, change in DataLoader(samples, 256, shuffle=True):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x.to(device)), (change / scale).to(device))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
        if world.rank == 0:
            print(
                f"epoch {epoch + 1}: {np.sqrt(np.mean(losses)):.2%} of the change not explained", flush=True
            )

    start = random_state(args.cells, world, np.random.default_rng(1000 + world.rank))
    exact, u = start, start
    for _ in range(5):
        exact = solve(exact, MANY, world)
        with dg.no_grad():
            change = net(dg.asarray(patches(u, world), device=device)).cpu().numpy()[:, 0]
            u = u + scale * change.astype(np.float64)
    off, moved = (world.allreduce(np.sum((exact - state) ** 2)) for state in (u, start))
    if world.rank == 0:
        print(f"{5 * MANY} solver steps in 5 of the network: {np.sqrt(off / moved):.2%} of the way off")


if __name__ == "__main__":
    main()
