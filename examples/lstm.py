"""Forecast a year of hourly temperatures in Seattle with an LSTM, six hours ahead.

On one rank:  python examples/lstm.py
On two:       distgrad run -n 2 examples/lstm.py

The measurements come with a package: pip install --no-deps vega_datasets
"""

import argparse
import csv
import importlib.util
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, DistributedSampler, TensorDataset
from distgrad.nn import functional as F
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, join

HOURS_AHEAD = 6


def load_temperatures():
    """Degrees Fahrenheit, float32 [hours]."""
    spec = importlib.util.find_spec("vega_datasets")
    if spec is None:
        raise SystemExit("lstm: run `pip install --no-deps vega_datasets`, which carries the measurements")
    with open(Path(spec.submodule_search_locations[0], "_data", "seattle-temps.csv")) as file:
        return np.array([float(row["temp"]) for row in csv.DictReader(file)], dtype=np.float32)


def windows(series, length):
    """Inputs [n, length, 1] and what follows each of their hours, HOURS_AHEAD later, in the same shape."""
    rows = np.lib.stride_tricks.sliding_window_view(series, length + HOURS_AHEAD)[..., None]
    return TensorDataset(rows[:, :length].copy(), rows[:, HOURS_AHEAD:].copy())


class Forecaster(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        hidden, _ = self.lstm(x)
        return x + self.head(hidden)  # it learns the change


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--length", type=int, default=48, help="hours that it looks back")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
    parser.add_argument("--lr", type=float, default=5e-3)
    add_device_option(parser)
    args = parser.parse_args()

    comm, device = join(args.device)
    dg.manual_seed(0)
    series = load_temperatures()
    cut = len(series) * 4 // 5  # the autumn is held out
    mean, std = series[:cut].mean(), series[:cut].std()
    train = windows((series[:cut] - mean) / std, args.length)
    test = windows((series[cut:] - mean) / std, args.length)

    loader = DataLoader(train, max(1, args.batch_size // comm.size), sampler=DistributedSampler(train))
    model = DistributedDataParallel(Forecaster(args.width).to(device))
    optimizer = dg.optim.Adam(model.parameters(), lr=args.lr)
    scheduler = dg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        losses = []
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x.to(device)), y.to(device))
            loss.backward()
            model.clip_grad_norm_(1.0)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
        if comm.rank == 0:
            print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)

    x, y = test.tensors
    with dg.no_grad():
        forecast = model.module(dg.asarray(x, device=device)).cpu().numpy()[:, -1]
    rmse = float(np.sqrt(np.mean((forecast - y[:, -1]) ** 2)) * std)
    same = float(np.sqrt(np.mean((x[:, -1] - y[:, -1]) ** 2)) * std)
    if comm.rank == 0:
        print(f"held-out error {HOURS_AHEAD} hours ahead: {rmse:.2f} degrees F (no change: {same:.2f})")


if __name__ == "__main__":
    main()
