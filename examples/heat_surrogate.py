"""Train a surrogate of a solver inside the simulation that makes its data.

Heat flows along a ring of cells whose conductivity grows with the temperature; the ring is dealt out to the
ranks, which exchange their borders with mpi4py. While the solver runs, each rank keeps pairs of (cells around
a place, change at the place MANY small steps later) from its own part, in memory, and all ranks train one
network on them. Afterwards the network takes MANY steps at once.

    mpirun -n 2 python examples/heat_surrogate.py
    distgrad run -n 2 --backend mpi examples/heat_surrogate.py

With ``--trainers T`` there are two roles: the last T ranks train, while the others solve and hand their
samples over as they come. Neither waits for the other: a solver goes on when its samples are on their way,
and trainers train on what has come.

    mpirun -n 4 python examples/heat_surrogate.py --trainers 1
"""

import argparse

import numpy as np
from mpi4py import MPI

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, TensorDataset
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, find_device, join

MANY = 40  # solver steps that one evaluation of the network replaces
REACH = 12  # cells to each side that it sees
SAMPLES = 1  # the tag of what solvers hand over
STEPS = 20  # of training between two looks at what has come
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
    for _ in range(num_runs):
        u = random_state(num_cells, world, rng)
        for _ in range(5):
            after = solve(u, MANY, world)
            yield patches(u, world), (after - u).astype(np.float32)[:, None]
            u = after


def train_afterwards(args, world, device):
    """One role: all ranks solve, then all train on what they have kept."""
    rng = np.random.default_rng(world.rank)
    inputs, changes = zip(*simulate(args.runs, args.cells, world, rng), strict=True)
    samples = TensorDataset(np.concatenate(inputs), np.concatenate(changes))
    scale = float(np.sqrt(world.allreduce(np.mean(samples.tensors[1] ** 2)) / world.size))

    dg.manual_seed(0)
    net = build_model(2 * REACH + 1).to(device)
    model = DistributedDataParallel(net)
    optimizer = dg.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = dg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    for epoch in range(args.epochs):
        losses = []
        for x, change in DataLoader(samples, 256, shuffle=True):
            losses.append(step(model, optimizer, x.to(device), (change / scale).to(device)))
        scheduler.step()
        if world.rank == 0:
            report(f"epoch {epoch + 1}", losses)
    return net, scale


# Two roles -------------------------------------------------------------------------------------------------


def solve_and_hand_over(args, world, solvers):
    """Solve; each run's samples go to the trainers in turn, and None to each of them at the end."""
    trainers = range(solvers.size, world.size)
    under_way = []
    rng = np.random.default_rng(world.rank)
    for number, samples in enumerate(simulate(args.runs, args.cells, solvers, rng)):
        under_way.append(world.isend(samples, trainers[(number + world.rank) % len(trainers)], SAMPLES))
    under_way += [world.isend(None, trainer, SAMPLES) for trainer in trainers]
    MPI.Request.Waitall(under_way)


def take_in(world, samples, num_solvers):
    """Add what the solvers have sent, at first wait for it; return how many of them go on."""
    while num_solvers and (not samples or world.Iprobe(tag=SAMPLES)):
        sent = world.recv(tag=SAMPLES)
        if sent is None:
            num_solvers -= 1
        else:
            samples.append(sent)
    return num_solvers


def train_meanwhile(args, world, trainers, device):
    """Train on the samples that have come, and go on for a while when there will be no more."""
    dg.manual_seed(0)
    net = build_model(2 * REACH + 1).to(device)
    model = DistributedDataParallel(net, trainers)
    optimizer = dg.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = dg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    samples, rng = [], np.random.default_rng(trainers.rank)
    num_solvers = take_in(world, samples, world.size - trainers.size)
    scale = float(np.sqrt(trainers.allreduce(np.mean(samples[0][1] ** 2)) / trainers.size))
    rounds, left = 0, args.epochs
    while left:
        inputs, changes = (np.concatenate(parts) for parts in zip(*samples, strict=True))
        losses = []
        for _ in range(STEPS):
            drawn = rng.integers(len(inputs), size=256)
            x, change = dg.asarray(inputs[drawn], device=device), changes[drawn] / scale
            losses.append(step(model, optimizer, x, dg.asarray(change, device=device)))
        rounds += 1
        num_solvers = take_in(world, samples, num_solvers)
        if trainers.allreduce(num_solvers, MPI.MAX) == 0:  # on all trainers alike
            scheduler.step()
            left -= 1
        if trainers.rank == 0:
            report(f"round {rounds}, {len(inputs)} samples, {num_solvers} solvers at work", losses)
    return net, scale


# What both have in common ----------------------------------------------------------------------------------


def step(model, optimizer, x, change):
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), change)
    loss.backward()
    optimizer.step()
    return loss.item()


def report(when, losses):
    print(f"{when}: {np.sqrt(np.mean(losses)):.2%} of the change not explained", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=256, help="on each rank that solves")
    parser.add_argument("--runs", type=int, default=40, help="initial states that the solver starts from")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--trainers", type=int, default=0, help="ranks that only train; 0: all do both")
    add_device_option(parser)
    args = parser.parse_args()

    world = MPI.COMM_WORLD
    if not 0 <= args.trainers < world.size:
        parser.error(f"--trainers must leave ranks to solve: from 0 to {world.size - 1}, got {args.trainers}")
    trains = world.rank >= world.size - args.trainers
    group = world.Split(trains)  # of the ranks of one role
    if args.trainers == 0:
        _, device = join(args.device, "mpi" if args.device == "cpu" else None)  # the ranks of COMM_WORLD
        net, scale = train_afterwards(args, world, device)
    elif trains:
        device = find_device(args.device)
        net, scale = train_meanwhile(args, world, group, device)
    else:
        device = find_device("cpu")
        net, scale = build_model(2 * REACH + 1), 0.0
        solve_and_hand_over(args, world, group)
    if args.trainers:  # the solvers get the network
        last = world.size - 1
        state = {name: value.cpu().numpy() for name, value in net.state_dict().items()}
        state, scale = world.bcast((state, scale), last)
        net.load_state_dict({name: dg.asarray(value) for name, value in state.items()})
    if not trains:
        evaluate(args, group, net, scale, device)


def evaluate(args, solvers, net, scale, device):
    """Let the network take the solver's steps, many at once, and compare."""
    start = random_state(args.cells, solvers, np.random.default_rng(1000 + solvers.rank))
    exact, u = start, start
    for _ in range(5):
        exact = solve(exact, MANY, solvers)
        with dg.no_grad():
            change = net(dg.asarray(patches(u, solvers), device=device)).cpu().numpy()[:, 0]
            u = u + scale * change.astype(np.float64)
    off, moved = (solvers.allreduce(np.sum((exact - state) ** 2)) for state in (u, start))
    if solvers.rank == 0:
        print(f"{5 * MANY} solver steps in 5 of the network: {np.sqrt(off / moved):.2%} of the way off")


if __name__ == "__main__":
    main()
