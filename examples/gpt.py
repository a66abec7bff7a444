"""Train a character-level GPT on the English text of Python's own documentation, and let it write.

On one rank:  python examples/gpt.py
On two:       distgrad run -n 2 examples/gpt.py
"""

import argparse
import pydoc_data.topics
import time

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.data import DataLoader, DistributedSampler, TokenDataset, Vocabulary
from distgrad.nn import functional as F
from distgrad.optim.lr_scheduler import OneCycleLR
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, join


class Block(nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.permute(0, 2, 1, 3).reshape(n, length, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, num_tokens, length, width, num_layers, num_heads):
        super().__init__()
        self.length = length
        self.tokens, self.places = nn.Embedding(num_tokens, width), nn.Embedding(length, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.Sequential(*[Block(width, num_heads) for _ in range(num_layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_tokens)

    def forward(self, x):
        h = self.tokens(x) + self.places(dg.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(h)))


def cross_entropy(logits, targets):
    """Mean over all characters of all windows."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def write(model, vocabulary, prompt, num_characters, temperature=0.7):
    """Continue the prompt, one drawn character after the other."""
    numbers, device = vocabulary.encode(prompt).tolist(), model.head.weight.device
    with dg.no_grad():
        for _ in range(num_characters):
            logits = model(dg.asarray([numbers[-model.length :]], device=device))[0, -1]
            numbers.append(int(dg.multinomial(dg.softmax(logits / temperature, axis=-1), 1)[0]))
    return vocabulary.decode(numbers)


def evaluate(model, loader, comm, device):
    """Mean loss over all characters, in nats; every rank takes its part."""
    sums = np.zeros(2)
    with dg.no_grad():
        for x, y in loader:
            if x.shape[0]:
                loss = cross_entropy(model(x.to(device)), y.to(device))
                sums += [loss.item() * y.size, y.size]
    return np.divide(*comm.all_reduce(sums))


def train(model, loader, args, comm, device):
    """Make all steps that are not made yet, saving now and then if a folder was given."""
    optimizer = dg.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    scheduler = OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.1, cycle_momentum=False)
    manager = dg.checkpoint.CheckpointManager(args.resume, every=100)
    manager.add(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
    first = manager.restore_latest() or 0

    losses, start = [], time.perf_counter()
    for step, (x, y) in zip(range(first + 1, args.steps + 1), loader, strict=False):
        optimizer.zero_grad()
        loss = cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses = [*losses[-99:], loss.item()]
        if comm.rank == 0 and step % 100 == 0:
            seconds = time.perf_counter() - start
            print(f"{step} steps in {seconds:.0f} s: {np.mean(losses):.3f} nats a character", flush=True)
        manager.step()
    manager.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"steps": 700, "batch-size": 32, "length": 128, "width": 128, "layers": 4, "sample": 600}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=3e-3, help="the highest, after a tenth of the steps")
    parser.add_argument("--resume", metavar="FOLDER", help="save there, and go on from what is there")
    add_device_option(parser)
    args = parser.parse_args()

    comm, device = join(args.device)
    text = "\n".join(pydoc_data.topics.topics.values())
    vocabulary = Vocabulary(text)
    numbers = vocabulary.encode(text)
    split = len(numbers) * 9 // 10
    windows = TokenDataset(numbers[:split], args.length)
    held_out = TokenDataset(numbers[split:], args.length, stride=args.length)
    loader = DataLoader(windows, max(1, args.batch_size // comm.size), sampler=DistributedSampler(windows))

    dg.manual_seed(0)
    gpt = GPT(len(vocabulary), args.length, args.width, args.layers, num_heads=args.width // 32)
    model = DistributedDataParallel(gpt.to(device))
    train(model, loader, args, comm, device)

    test_loader = DataLoader(held_out, 32, sampler=DistributedSampler(held_out))
    held_out_loss = evaluate(gpt, test_loader, comm, device)
    if comm.rank == 0:
        print(f"held-out text: {held_out_loss:.3f} nats a character")
        print(write(gpt, vocabulary, "The ", args.sample))


if __name__ == "__main__":
    main()
