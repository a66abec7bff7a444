"""Data sets of images from files at hand: torchvision's ``datasets``. Nothing is downloaded."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distgrad.autograd.creation import asarray
from distgrad.backend.rng import Generator
from distgrad.data.dataset import Dataset
from distgrad.data.mnist import read_idx_pair
from distgrad.errors import DataError
from distgrad.torch.vision.images import from_array, open_image

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "KMNIST",
    "MNIST",
    "DatasetFolder",
    "FakeData",
    "FashionMNIST",
    "ImageFolder",
    "VisionDataset",
]  # fmt: skip

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class VisionDataset(Dataset):
    """A data set in a folder.

    Args:
        root: the folder.
        transforms: of an image and its target together.
        transform: of an image.
        target_transform: of a target.
    """

    def __init__(
        self,
        root: Any = None,
        transforms: Callable[..., Any] | None = None,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
    ) -> None:
        self.root = os.path.expanduser(root) if isinstance(root, str) else root
        self.transforms, self.transform, self.target_transform = transforms, transform, target_transform

    def _changed(self, image: Any, target: Any) -> tuple[Any, Any]:
        if self.transforms is not None:
            return self.transforms(image, target)
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)


class MNIST(VisionDataset):
    """Handwritten digits, from the IDX files in ``root/MNIST/raw``, with or without ``.gz``.

    Args:
        root: the folder above.
        train: the 60,000 of the training set, or the 10,000 others.
        transform, target_transform: of an image and of its digit.
        download: nothing is; the files must be there.

    Raises:
        DataError: a file is missing or damaged.
    """

    classes: ClassVar[list[str]] = [
        f"{number} - {name}"
        for number, name in enumerate(
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        )
    ]

    def __init__(
        self,
        root: Any,
        train: bool = True,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(root, None, transform, target_transform)
        self.train = train
        images, labels = read_idx_pair(Path(self.raw_folder), "train" if train else "t10k")
        self.data, self.targets = asarray(images.copy()), asarray(labels.astype(np.int64))

    @property
    def raw_folder(self) -> str:
        """Where the files lie."""
        return os.path.join(self.root, type(self).__name__, "raw")

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Numbers of the classes."""
        return {name: number for number, name in enumerate(self.classes)}

    train_data = test_data = property(lambda self: self.data)
    train_labels = test_labels = property(lambda self: self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._changed(from_array(self.data[index].numpy()), int(self.targets[index]))

    def __len__(self) -> int:
        return len(self.data)


class FashionMNIST(MNIST):
    """Pictures of clothes in the same form; arguments as in :class:`MNIST`."""

    classes: ClassVar[list[str]] = [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"),
        "Ankle boot",
    ]


class KMNIST(MNIST):
    """Japanese characters in the same form; arguments as in :class:`MNIST`."""

    classes: ClassVar[list[str]] = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]


class _Arrays(pickle.Unpickler):
    """Reads dicts, lists, strings and arrays, and makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            found = np if name != "_reconstruct" else np._core.multiarray  # type: ignore[attr-defined]
            return getattr(found, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise DataError(f"CIFAR: the file asks for {module}.{name}, which no file of CIFAR does")


class CIFAR10(VisionDataset):
    """Small photographs in ten classes, from the files in ``root/cifar-10-batches-py``.

    Args:
        root: the folder above.
        train: the 50,000 of the training set, or the 10,000 others.
        transform, target_transform: of an image and of its class.
        download: nothing is; the files must be there.

    Raises:
        DataError: a file is missing or damaged.
    """

    base_folder = "cifar-10-batches-py"
    _files: ClassVar[dict[bool, list[str]]] = {
        True: [f"data_batch_{n}" for n in range(1, 6)],
        False: ["test_batch"],
    }
    _meta, _labels, _names = "batches.meta", "labels", "label_names"

    def __init__(
        self,
        root: Any,
        train: bool = True,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(root, None, transform, target_transform)
        self.train = train
        batches = [self._read(name) for name in self._files[train]]
        pixels = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
        self.data = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        self.targets = [int(label) for batch in batches for label in batch[self._labels]]
        self.classes: list[str] = list(self._read(self._meta)[self._names])
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}

    def _read(self, name: str) -> dict[str, Any]:
        path = Path(self.root) / self.base_folder / name
        try:
            with path.open("rb") as file:
                return _Arrays(file, encoding="latin1").load()
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(
                f"{type(self).__name__}: there is no {path}; unpack the data set's archive in {self.root}, "
                "nothing is downloaded"
            ) from error
        except Exception as error:
            raise DataError(f"{type(self).__name__}: {path} is damaged: {error}; fetch it again") from error

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._changed(from_array(self.data[index]), self.targets[index])

    def __len__(self) -> int:
        return len(self.data)


class CIFAR100(CIFAR10):
    """The same in a hundred classes, from ``root/cifar-100-python``; arguments as in :class:`CIFAR10`."""

    base_folder = "cifar-100-python"
    _files: ClassVar[dict[bool, list[str]]] = {True: ["train"], False: ["test"]}
    _meta, _labels, _names = "meta", "fine_labels", "fine_label_names"


class FakeData(VisionDataset):
    """Images of normal random numbers, the same for an index each time.

    Args:
        size: how many.
        image_size: ``(C, H, W)``.
        num_classes: how many classes the labels are drawn from.
        transform, target_transform: of an image and of its class.
        random_offset: added to an index to seed it.
    """

    def __init__(
        self,
        size: int = 1000,
        image_size: tuple[int, int, int] = (3, 224, 224),
        num_classes: int = 10,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        random_offset: int = 0,
    ) -> None:
        super().__init__(None, None, transform, target_transform)
        self.size, self.image_size, self.num_classes = size, image_size, num_classes
        self.random_offset = random_offset

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= self.size:
            raise IndexError(f"FakeData: index {index} of {self.size} images")
        generator = Generator(index + self.random_offset)
        numbers = generator.normal(tuple(self.image_size))
        pixels = (np.moveaxis(numbers, 0, -1) * 255).astype(np.int64).astype(np.uint8)
        label = int(generator.integers(0, self.num_classes, (1,))[0])
        return self._changed(from_array(pixels if pixels.shape[-1] > 1 else pixels[..., 0]), label)

    def __len__(self) -> int:
        return self.size


class DatasetFolder(VisionDataset):
    """The files below a folder, whose subfolders are the classes.

    Args:
        root: the folder.
        loader: from a path to a sample.
        extensions: of the files that are taken.
        transform, target_transform: of a sample and of its class.
        is_valid_file: which files are taken, instead of ``extensions``.

    Raises:
        DataError: no subfolders, or no files in one.
    """

    def __init__(
        self,
        root: Any,
        loader: Callable[[str], Any],
        extensions: tuple[str, ...] | None = None,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(root, None, transform, target_transform)
        ends = tuple(extensions or ())
        taken = is_valid_file or (lambda path: path.lower().endswith(ends))
        base = Path(root)
        self.classes = sorted(each.name for each in base.iterdir() if each.is_dir()) if base.is_dir() else []
        if not self.classes:
            raise DataError(f"{type(self).__name__}: {base} has no folders, one for each class")
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.samples: list[tuple[str, int]] = []
        for name, number in self.class_to_idx.items():
            paths = sorted(str(path) for path in (base / name).rglob("*") if path.is_file())
            found = [(path, number) for path in paths if taken(path)]
            if not found:
                raise DataError(f"{type(self).__name__}: {base / name} has no files of the kinds {ends}")
            self.samples += found
        self.loader, self.extensions = loader, extensions
        self.imgs, self.targets = self.samples, [number for _, number in self.samples]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, number = self.samples[index]
        return self._changed(self.loader(path), number)

    def __len__(self) -> int:
        return len(self.samples)


class ImageFolder(DatasetFolder):
    """The images below a folder, whose subfolders are the classes; arguments as in :class:`DatasetFolder`."""

    def __init__(
        self,
        root: Any,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        loader: Callable[[str], Any] = open_image,
        is_valid_file: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(root, loader, IMG_EXTENSIONS, transform, target_transform, is_valid_file)
