"""Datasets of random images."""

import numpy as np
import torch


class _Images(torch.utils.data.Dataset):
    shape, classes, count = (28, 28), 10, 4096

    def __init__(self, root="", train=True, transform=None, target_transform=None, download=False, **options):
        rng = np.random.default_rng(1 if train else 2)
        self.transform, self.target_transform = transform, target_transform
        self._images = rng.integers(0, 256, (self.count, *self.shape)).astype(np.uint8)
        self._labels = rng.integers(0, self.classes, self.count)
        self.classes = [str(i) for i in range(10)]

    @property
    def data(self):
        return torch.from_numpy(self._images)

    train_data = test_data = data

    @property
    def targets(self):
        return torch.from_numpy(self._labels)

    train_labels = test_labels = targets

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image, label = self._images[index], int(self._labels[index])
        image = image if self.transform is None else self.transform(image)
        return image, label if self.target_transform is None else self.target_transform(label)


class MNIST(_Images):
    """28 × 28."""


class FashionMNIST(_Images):
    """28 × 28."""


class CIFAR10(_Images):
    """32 × 32 × 3."""

    shape = (32, 32, 3)


class CIFAR100(CIFAR10):
    """With a hundred classes."""

    classes = 100


class FakeData(_Images):
    """As the arguments say."""

    def __init__(self, size=1000, image_size=(3, 224, 224), num_classes=10, transform=None, **options):
        self.count, self.shape = min(size, 512), (*image_size[1:], image_size[0])
        super().__init__(transform=transform)
