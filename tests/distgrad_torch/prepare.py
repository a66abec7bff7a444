"""Files of random data that programs of ``programs.py`` read: ``python prepare.py FOLDER``."""

import pickle
import sys
from pathlib import Path

import numpy as np


def citations(folder, rng):
    """Papers with random words for pygcn and pyGAT, in the form of the Cora data, with its links."""
    links = np.loadtxt(folder / "cora.cites", dtype=np.int64)
    papers = np.unique(links)
    words = (rng.random((len(papers), 300)) < 0.05).astype(int)
    kinds = rng.integers(0, 7, len(papers))
    rows = [
        " ".join([str(paper), *map(str, row), f"kind{kind}"])
        for paper, row, kind in zip(papers, words, kinds, strict=True)
    ]
    (folder / "cora.content").write_text("\n".join(rows) + "\n")


def characters(text, folder):
    """Shakespeare by characters for nanoGPT, as its own script prepares it."""
    letters = sorted(set(text))
    numbers = {letter: number for number, letter in enumerate(letters)}
    ids = np.array([numbers[letter] for letter in text], np.uint16)
    cut = int(len(ids) * 0.9)
    ids[:cut].tofile(folder / "train.bin")
    ids[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(letters), "stoi": numbers, "itos": dict(enumerate(letters))}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def main(folder):
    """Write all that is missing below ``folder``, which holds the repositories."""
    rng = np.random.default_rng(0)
    for name in ("pygcn", "pyGAT"):
        citations(folder / name / "data" / "cora", rng)
    text = (folder / "ng-video-lecture" / "input.txt").read_text()
    characters(text, folder / "nanoGPT" / "data" / "shakespeare_char")
    (folder / "minGPT" / "projects" / "chargpt" / "input.txt").write_text(text[:100000])
    sentences = folder / "pytorch-tutorial" / "tutorials" / "02-intermediate" / "language_model" / "data"
    sentences.mkdir(exist_ok=True)
    (sentences / "train.txt").write_text(text[:200000])
    drawings = folder / "MAML-Pytorch" / "omniglot"
    drawings.mkdir(exist_ok=True)
    np.save(drawings / "omniglot.npy", rng.random((1300, 20, 1, 28, 28)))
    words = folder / "examples" / "word_language_model" / "data" / "wikitext-2"
    (words / "train.txt").write_text((words / "valid.txt").read_text()[:200000])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
