"""A PyTorch script; port_distgrad.py is the same one after its imports were changed."""

import argparse
from importlib.resources import files

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def load_wine():
    """178 wines: 13 measurements, standardised, and one of three growers (from mlxtend)."""
    table = np.loadtxt(files("mlxtend") / "data/data/wine.csv", delimiter=",", dtype=np.float32)
    x = (table[:, :-1] - table[:, :-1].mean(axis=0)) / table[:, :-1].std(axis=0)
    return torch.asarray(x), torch.asarray(table[:, -1].astype(np.int64))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(13, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 32), nn.Tanh()
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.body(x))


def train(model, device="cpu", epochs=20):
    loader = DataLoader(TensorDataset(*load_wine()), batch_size=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    losses = []
    for _ in range(epochs):
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    model = Net().to(device)
    losses = train(model, device)
    x, y = load_wine()
    with torch.no_grad():
        right = (model(x.to(device)).argmax(1).cpu() == y).sum().item()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {right} of {len(y)} wines right")


if __name__ == "__main__":
    main()
