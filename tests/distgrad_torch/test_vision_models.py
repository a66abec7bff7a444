"""torchvision's networks: sizes, names of layers, weights from files at hand."""

import numpy as np
import pytest

import distgrad as dg
from distgrad.errors import DataError, OptionError
from distgrad.torch.files import save
from distgrad.torch.vision import models

#: Parameters, as the papers and torchvision's pages have them, and entries of the state dict.
SIZES = {
    "alexnet": (61_100_840, 16), "vgg11": (132_863_336, 22), "vgg16_bn": (138_365_992, 97),
    "squeezenet1_0": (1_248_424, 52), "squeezenet1_1": (1_235_496, 52), "resnet18": (11_689_512, 122),
    "resnet34": (21_797_672, 218), "resnet50": (25_557_032, 320), "resnet152": (60_192_808, 932),
    "resnext50_32x4d": (25_028_904, 320), "wide_resnet50_2": (68_883_240, 320),
    "densenet121": (7_978_856, 727), "densenet161": (28_681_000, 967), "mobilenet_v2": (3_504_872, 314),
}  # fmt: skip
SMALL = ("squeezenet1_1", "resnet18", "mobilenet_v2")


def numbers(name):
    network = getattr(models, name)()
    return sum(p.size for p in network.parameters()), len(network.state_dict())


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_are_of_the_known_size(name):
    assert numbers(name) == SIZES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SIZES if name not in SMALL])
def test_networks_are_of_the_known_size(name):
    assert numbers(name) == SIZES[name]


@pytest.mark.parametrize("name", ["squeezenet1_0", "resnet18", "densenet121", "mobilenet_v2"])
def test_a_network_trains(name):
    options = {"densenet121": {"block_config": (2, 2), "growth_rate": 8}}.get(name, {})
    network = models.DenseNet(**options, num_classes=5) if options else getattr(models, name)(num_classes=5)
    x = dg.asarray(np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    out = network(x)
    assert out.shape == (2, 5)
    (out**2).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_names_of_layers_are_torchvisions():
    keys = set(models.resnet50(num_classes=2).state_dict())
    assert {"conv1.weight", "layer1.0.downsample.1.running_var", "layer4.2.conv3.weight", "fc.bias"} <= keys
    keys = set(models.mobilenet_v2(num_classes=2).state_dict())
    assert {"features.1.conv.0.0.weight", "features.2.conv.3.bias", "features.18.1.weight"} <= keys
    keys = set(models.DenseNet(block_config=(2, 2), num_classes=2).state_dict())
    assert {"features.denseblock1.denselayer2.conv2.weight", "features.transition1.norm.weight"} <= keys
    keys = set(models.squeezenet1_1(num_classes=2).state_dict())
    assert {"features.12.expand3x3.weight", "classifier.1.bias"} <= keys
    listed = {n for n in vars(models) if n.islower() and n[0] != "_" and callable(getattr(models, n))}
    assert {"resnet18", "vgg19_bn", "densenet121"} <= listed  # as programs list them


def test_weights_are_read_from_files_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    kept = models.squeezenet1_1(num_classes=3)
    with pytest.raises(DataError, match=r"squeezenet1_1: no file squeezenet1_1-\*\.pth in .*checkpoints"):
        models.squeezenet1_1(pretrained=True, num_classes=3)
    save(kept.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    for given in (
        {"pretrained": True},
        {"weights": "DEFAULT"},
        {"weights": models.SqueezeNet1_1_Weights.DEFAULT},
    ):
        found = models.squeezenet1_1(**given, num_classes=3)
        for name, value in kept.state_dict().items():
            np.testing.assert_array_equal(found.state_dict()[name].numpy(), value.numpy())
    save(kept.state_dict(), folder / "squeezenet1_1-00000000.pth")
    with pytest.raises(DataError, match="2 files"):
        models.squeezenet1_1(weights="IMAGENET1K_V1", num_classes=3)
    with pytest.raises(OptionError, match="weights must be None, 'DEFAULT'"):
        models.squeezenet1_1(weights="gobble")


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match=r"models\.inception_v3; there are alexnet, .*torch\.nn"):
        _ = models.inception_v3
    with pytest.raises(AttributeError, match="Gobble_Weights"):
        _ = models.Gobble_Weights
