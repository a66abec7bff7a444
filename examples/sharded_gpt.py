"""Train a character-level GPT of which no rank has all: blocks are gathered as they compute, and let go.

On four ranks:            distgrad run -n 4 examples/sharded_gpt.py
On one, with all of it:   python examples/sharded_gpt.py --shard none
"""

import argparse
import pydoc_data.topics
from pathlib import Path

import numpy as np
from gpt import GPT, cross_entropy

import distgrad as dg
from distgrad.data import DataLoader, DistributedSampler, TokenDataset, Vocabulary
from distgrad.parallel import DistributedDataParallel
from distgrad.script import join


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"steps": 40, "batch-size": 8, "length": 64, "width": 512, "layers": 8}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--shard", choices=("none", "optimizer", "gradients", "parameters"), default="parameters"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save", help="a file for the model's state, which rank 0 writes")
    args = parser.parse_args()

    comm, _ = join("cpu")
    text = "\n".join(pydoc_data.topics.topics.values())
    vocabulary = Vocabulary(text)
    windows = TokenDataset(vocabulary.encode(text), args.length)
    loader = DataLoader(windows, max(1, args.batch_size // comm.size), sampler=DistributedSampler(windows))

    dg.manual_seed(0)
    gpt = GPT(len(vocabulary), args.length, args.width, args.layers, num_heads=args.width // 64)
    count = sum(parameter.size for parameter in gpt.parameters())
    model = DistributedDataParallel(gpt, comm, shard=None if args.shard == "none" else args.shard)
    optimizer = dg.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.95))
    losses = []
    for _, (x, y) in zip(range(args.steps), loader, strict=False):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        model.clip_grad_norm_(1.0)
        optimizer.step()
        losses.append(loss.item())
    state = model.state_dict(rank0_only=True) if args.save else {}
    if comm.rank == 0:
        held = sum(
            array.nbytes for entry in optimizer.state.values() for k, array in entry.items() if k != "step"
        )
        print(f"{count / 1e6:.1f} million parameters; this rank keeps {held / 2**20:.0f} MiB of moments")
        print(f"{losses[0]:.2f} nats a character at first, {np.mean(losses[-5:]):.2f} at last")
        if args.save:
            dg.save(state, Path(args.save))


if __name__ == "__main__":
    main()
