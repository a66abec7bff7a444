"""torchvision's data sets from files at hand, and its transforms."""

import importlib
import pickle
import struct

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DataError, DTypeError, ShapeError
from distgrad.torch.vision import datasets, transforms, utils
from distgrad.torch.vision.transforms import functional as F

Image = pytest.importorskip("PIL.Image", reason="images need the vision extra")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 16, 3)).astype(np.uint8)


def image():
    return Image.fromarray(PIXELS)


def test_mnist_reads_the_files_and_says_which_are_missing(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits, labels = RNG.integers(0, 256, (5, 28, 28)).astype(np.uint8), np.arange(5, dtype=np.uint8)
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 5, 28, 28) + digits.tobytes())
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 5) + labels.tobytes())
    data = datasets.MNIST(str(tmp_path), download=True, transform=transforms.ToTensor())
    x, y = data[3]
    assert (len(data), y, x.shape) == (5, 3, (1, 28, 28))
    np.testing.assert_array_equal(x.numpy()[0], digits[3].astype(np.float32) / np.float32(255))
    assert data.train_labels.tolist() == data.targets.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        datasets.MNIST(str(tmp_path), train=False)


def test_cifar_reads_its_pickles_and_refuses_others(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = RNG.integers(0, 256, (4, 3072)).astype(np.uint8)
    for name in ("test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [3, 1, 2, 0]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c", "d"]}))
    data = datasets.CIFAR10(tmp_path, train=True)
    picture, label = data[1]
    assert (len(data), label, picture.size, data.classes[label]) == (20, 1, (32, 32), "b")
    np.testing.assert_array_equal(np.array(picture), rows[1].reshape(3, 32, 32).transpose(1, 2, 0))
    (folder / "test_batch").write_bytes(pickle.dumps(importlib.import_module))
    with pytest.raises(DataError, match="which no file of CIFAR does"):
        datasets.CIFAR10(tmp_path, train=False)
    (folder / "test_batch").write_bytes(b"x")
    with pytest.raises(DataError, match="is damaged"):
        datasets.CIFAR10(tmp_path, train=False)


def test_folders_and_fake_images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image().save(tmp_path / name / "one.png")
    data = datasets.ImageFolder(str(tmp_path), transform=transforms.ToTensor())
    assert (data.classes, len(data), data[1][1], data.class_to_idx["dog"]) == (["cat", "dog"], 2, 1, 1)
    np.testing.assert_array_equal(
        (data[0][0].numpy() * 255).round().astype(np.uint8), np.moveaxis(PIXELS, -1, 0)
    )
    with pytest.raises(DataError, match="has no folders"):
        datasets.ImageFolder(str(tmp_path / "cat"))
    fake = datasets.FakeData(3, (3, 8, 8), 5)
    assert (np.array(fake[2][0]) == np.array(fake[2][0])).all()
    assert fake[0][0].size == (8, 8)
    loader = dg.data.DataLoader(data, batch_size=2)
    x, y = next(iter(loader))
    assert (x.shape, y.tolist()) == ((2, 3, 12, 16), [0, 1])


SIZES = {
    "Resize((6, 8))": (6, 8), "Resize(6)": (6, 8), "CenterCrop(10)": (10, 10), "CenterCrop((14, 6))": (14, 6),
    "RandomCrop(8)": (8, 8), "RandomCrop(16, padding=4)": (16, 16), "RandomHorizontalFlip(1.0)": (12, 16),
    "RandomVerticalFlip(1.0)": (12, 16), "RandomResizedCrop(7)": (7, 7), "Pad(2)": (16, 20),
    "Pad((1, 2), padding_mode='reflect')": (16, 18), "RandomRotation(30)": (12, 16),
    "RandomRotation((90, 90), expand=True)": (16, 12), "ColorJitter(0.4, 0.4, 0.4, 0.1)": (12, 16),
    "Grayscale(3)": (12, 16), "RandomGrayscale(1.0)": (12, 16), "Lambda(lambda x: x)": (12, 16),
}  # fmt: skip


@pytest.mark.parametrize("made", SIZES)
def test_a_change_has_its_size_on_images_and_on_tensors_alike(made):
    change = eval(f"transforms.{made}", {"transforms": transforms})
    dg.manual_seed(0)
    of_image = F.pil_to_tensor(change(image())).numpy().astype(int)
    dg.manual_seed(0)
    of_tensor = change(F.pil_to_tensor(image())).numpy().astype(int)
    assert of_image.shape == of_tensor.shape == (3, *SIZES[made])
    rounding = 2 if "Gray" in made or "Color" in made else 0
    assert np.abs(of_image - of_tensor).max() <= (40 if "Color" in made else rounding)


def test_the_rest():
    x = F.to_tensor(image())
    back = np.array(transforms.ToPILImage()(x))
    assert np.abs(back.astype(int) - PIXELS).max() <= 1
    y = transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))(x).numpy()
    expected = (x.numpy() - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.2, 0.3, 0.4])[
        :, None, None
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.array(F.hflip(image())), PIXELS[:, ::-1])
    np.testing.assert_array_equal(F.vflip(x).numpy(), x.numpy()[:, ::-1])
    assert len(transforms.FiveCrop(4)(image())) == 5
    dg.manual_seed(0)
    erased = transforms.RandomErasing(1.0)(x)
    assert 0 < (erased == 0).sum().item() < x.size
    several = transforms.Compose([transforms.RandomOrder([F.hflip]), transforms.RandomChoice([F.vflip]),
                                  transforms.RandomApply([F.hflip], p=1.0), transforms.PILToTensor(),
                                  transforms.ConvertImageDtype(dg.float32)])  # fmt: skip
    np.testing.assert_array_equal(several(image()).numpy(), x.numpy()[:, ::-1])
    grid = utils.make_grid(dg.stack([x] * 3), nrow=2, padding=1)
    assert grid.shape == (3, 27, 35)
    np.testing.assert_array_equal(grid[:, 1:13, 1:17].numpy(), x.numpy())
    with pytest.raises(TypeError, match="to_tensor: expected an image"):
        F.to_tensor([1])


def test_a_file_of_images(tmp_path):
    utils.save_image(F.to_tensor(image()), tmp_path / "x.png")
    assert np.abs(np.array(Image.open(tmp_path / "x.png")).astype(int) - PIXELS).max() <= 1


@pytest.mark.parametrize(
    ("given", "pixels", "wanted", "expected"),
    [
        ("uint8", [0, 1, 255], "int16", [0, 128, 255 * 128]),
        ("uint8", [0, 127, 255], "int8", [0, 63, 127]),
        ("int16", [0, 255, 32767], "uint8", [0, 1, 255]),
        ("uint8", [0, 255], "int64", [0, 255 * 2**55]),
        ("int32", [0, 2**31 - 1], "uint8", [0, 255]),
        ("uint8", [0, 51, 255], "float32", [0.0, 0.2, 1.0]),
        ("int16", [0, 32767], "float64", [0.0, 1.0]),
        ("float32", [0.0, 0.5, 1.0], "uint8", [0, 127, 255]),
        ("float16", [0.0, 0.5, 1.0], "uint8", [0, 127, 255]),
        ("float64", [0.0, 1.0], "int32", [0, 2**31 - 1]),
        ("float32", [0.0, 1.0], "float64", [0.0, 1.0]),
        ("float32", [0.0, 1.0], "int32", None),
        ("float32", [0.0, 1.0], "int64", None),
        ("float64", [0.0, 1.0], "int64", None),
        ("float16", [0.0, 1.0], "int64", None),
    ],
)
def test_full_brightness_stays_so_in_another_dtype(given, pixels, wanted, expected):
    x = dg.asarray(np.array(pixels, given)).reshape(1, 1, -1)
    convert = transforms.ConvertImageDtype(np.dtype(wanted))
    if expected is None:
        with pytest.raises(DTypeError, match="convert_image_dtype: expected an integer dtype of fewer bits"):
            convert(x)
        return
    y = convert(x)
    assert str(y.dtype) == wanted
    np.testing.assert_allclose(y.numpy().ravel(), expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_contrast_is_around_the_mean_of_each_image(dtype):
    top = 1 if dtype[0] == "f" else 255
    x = (RNG.random((2, 4, 3, 5, 6)) * top * np.array([0.3, 1.0]).reshape(2, 1, 1, 1, 1)).astype(dtype)
    several = F.adjust_contrast(dg.asarray(x), 0.4).numpy()
    for i, j in np.ndindex(2, 4):
        red, green, blue = x[i, j].astype(np.float64)
        gray = (0.2989 * red + 0.587 * green + 0.114 * blue).astype(dtype).mean(dtype=np.float64)
        expected = 0.4 * x[i, j] + 0.6 * gray
        assert np.abs(several[i, j] - expected).max() < (1.01 if dtype == "uint8" else 1e-6)
    one = dg.asarray(x[:, :, :1])
    np.testing.assert_array_equal(F.rgb_to_grayscale(one).numpy(), x[:, :, :1])
    with pytest.raises(ShapeError, match=r"rgb_to_grayscale: expected .* 1 or 3"):
        F.rgb_to_grayscale(dg.asarray(x[:, :, :2]))
