"""Files of random data that programs of ``programs.py`` read: ``python prepare.py FOLDER``."""

import gzip
import json
import pickle
import shutil
import sys
import tarfile
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


def pictures(folder, count, rng, size=64, mode="RGB", suffix=".jpg", names=str):
    """Random pictures."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        shape = (size, size, {"RGB": 3, "RGBA": 4}[mode]) if mode != "L" else (size, size)
        image = rng.integers(0, 2, shape) if names is _mask else rng.integers(0, 256, shape)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{names(i)}{suffix}")


def _mask(i):
    return f"{i}_mask"


def springs(folder, rng):
    """Places and speeds of five bodies for NRI."""
    for split, count in (("train", 400), ("valid", 16), ("test", 16)):
        steps = 49 if split != "test" else 99
        for name in ("loc", "vel"):
            np.save(folder / f"{name}_{split}_springs5.npy", rng.standard_normal((count, steps, 2, 5)))
        np.save(folder / f"edges_{split}_springs5.npy", rng.integers(0, 2, (count, 5, 5)).astype(float))


def scene(folder, rng):
    """Random views for NeRF, in the form of its synthetic scenes."""
    for split in ("train", "val", "test"):
        pictures(folder / split, 4, rng, 32, "RGBA", ".png")
        turns = [np.linalg.qr(rng.standard_normal((4, 4)))[0].tolist() for _ in range(4)]
        frames = [{"file_path": f"{split}/{i}", "transform_matrix": turn} for i, turn in enumerate(turns)]
        views = {"camera_angle_x": 0.7, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(views))


def series(path, rng):
    """Five random walks by the hour."""
    walks = np.cumsum(rng.standard_normal((1200, 5)), 0)
    days = np.datetime64("2020-01-01T00:00:00") + np.arange(1200) * np.timedelta64(1, "h")
    lines = zip(days, walks, strict=True)
    rows = [f"{day.item()},{','.join(f'{x:.5f}' for x in row)}" for day, row in lines]
    path.write_text("\n".join(["date,0,1,2,3,4", *rows]) + "\n")


def graphs(path, rng):
    """Random graphs in the form of the TU data: a head, then a tag, a count and neighbours for every node."""
    lines = ["188"]
    for _ in range(188):
        n = int(rng.integers(10, 20))
        links = np.triu(rng.random((n, n)) < 0.3, 1)
        links |= links.T
        lines.append(f"{n} {rng.integers(0, 2)}")
        for row in links:
            others = np.flatnonzero(row)
            lines.append(" ".join(map(str, [rng.integers(0, 7), len(others), *others])))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def words(folder, rng):
    """Random pictures of words for crnn."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    lexicon = ["".join(rng.choice(list("abcdefghij"), rng.integers(3, 7))) for _ in range(50)]
    (folder / "lexicon.txt").write_text("\n".join(lexicon) + "\n")
    for split in ("train", "val", "test"):
        for i in range(1000):
            if i < 50:
                Image.fromarray(rng.integers(0, 256, (32, 100)).astype(np.uint8)).save(folder / f"{i}.jpg")
        lines = [f"{i % 50}.jpg {i % 50}" for i in range(1000)]
        (folder / f"annotation_{split}.txt").write_text("\n".join(lines) + "\n")


def more(folder, text, rng):
    """Files of the programs that are not of language models or citations."""
    images = folder / "examples" / "super_resolution" / "dataset" / "BSDS300" / "images"
    for split in ("train", "test"):
        pictures(images / split, 30, rng, 300)
    pictures(folder / "examples" / "fast_neural_style" / "pictures" / "all", 60, rng)
    sines = np.sin(np.arange(100)[None] / 20.0 + rng.integers(-80, 80, (20, 1)))
    import torch

    torch.save(sines, folder / "examples" / "time_sequence_prediction" / "traindata.pt")
    for name in ("gcn", "gat"):
        place = folder / "examples" / name
        with tarfile.open(place / "cora.tgz", "w:gz") as archive:
            archive.add(folder / "pygcn" / "data" / "cora", "cora")
    shutil.copytree(
        folder / "pygcn/data/cora", folder / "graphsage-simple/graphsage/cora", dirs_exist_ok=True
    )
    springs(folder / "NRI" / "data", rng)
    (folder / "NRI" / "logs").mkdir(exist_ok=True)
    scene(folder / "nerf-pytorch" / "data", rng)
    for name in ("LTSF-Linear", "Informer2020"):
        series(folder / name / "series.csv", rng)
    graphs(folder / "powerful-gnns" / "dataset" / "MUTAG" / "MUTAG.txt", rng)
    words(folder / "crnn-pytorch" / "src" / "data/mnt/ramdisk/max/90kDICT32px", rng)
    pictures(folder / "Pytorch-UNet" / "data" / "imgs", 40, rng)
    pictures(folder / "Pytorch-UNet" / "data" / "masks", 40, rng, mode="L", suffix=".gif", names=_mask)
    (folder / "word2vec-pytorch" / "word2vec" / "input.txt").write_text(text[:60000])
    lines = [line for line in text.splitlines() if len(line.split()) > 5][:2000]
    pairs = "".join(f"{a}\t{b}\n" for a, b in zip(lines[::2], lines[1::2], strict=True))
    (folder / "BERT-pytorch" / "bert_pytorch" / "corpus.txt").write_text(pairs)
    with gzip.open(folder / "x-transformers" / "data" / "enwik8.gz", "wb") as file:
        file.write((text * 90).encode()[:95000000].ljust(95000000))
    penn = folder / "awd-lstm-lm" / "data" / "penn"
    letters = folder / "transformer-xl" / "data" / "enwik8"
    for place in (penn, letters):
        place.mkdir(parents=True, exist_ok=True)
        for split in ("train", "valid", "test"):
            body = text[:60000] if place is penn else " ".join(str(ord(c)) for c in text[:60000])
            (place / f"{split}.txt").write_text(body + "\n")
    people, films, stars = (rng.integers(1, n, 4000) for n in (200, 300, 6))
    rows = [f"{a}::{b}::{c}::0" for a, b, c in zip(people, films, stars, strict=True)]
    (folder / "pytorch-fm" / "examples" / "ratings.dat").write_text("\n".join(rows) + "\n")
    stories = folder / "llama2.c" / "data" / "TinyStories_all_data"
    stories.mkdir(parents=True, exist_ok=True)
    for i in range(2):
        rng.integers(0, 32000, 20000).astype(np.uint16).tofile(stories / f"data{i}.bin")


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
    wiki = folder / "examples" / "word_language_model" / "data" / "wikitext-2"
    (wiki / "train.txt").write_text((wiki / "valid.txt").read_text()[:200000])
    more(folder, text, rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
