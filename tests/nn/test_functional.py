"""What functions do beside agreeing with PyTorch on values: randomness, in-place results, refusals."""

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, tracebacks
from distgrad.backend.rng import Generator
from distgrad.errors import DTypeError, GraphError, OptionError, ShapeError
from distgrad.nn import functional as F

CHANNELS = {
    "dropout1d": (200, 20, 3),
    "dropout2d": (200, 20, 2, 2),
    "dropout3d": (200, 20, 2, 1, 2),
    "feature_alpha_dropout": (200, 20, 3),
}


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", *CHANNELS])
def test_dropout_drops_its_share_and_keeps_the_mean(name):
    x = dg.randn(*CHANNELS.get(name, (4000,))) + 1.0
    y = getattr(F, name)(x, 0.3, True, generator=Generator(1))._data
    numbers, counts = np.unique(y, return_counts=True)
    dropped = y == numbers[counts.argmax()]
    assert "alpha" in name or not y[dropped].any()
    assert abs(dropped.mean() - 0.3) < 0.05
    if name in CHANNELS:
        flat = dropped.reshape(*x.shape[:2], -1)
        assert (flat.all(-1) | ~flat.any(-1)).all()
    if "alpha" not in name:
        np.testing.assert_allclose(y[~dropped], x._data[~dropped] / 0.7, rtol=1e-6)
    again = getattr(F, name)(x, 0.3, True, generator=Generator(1))
    np.testing.assert_array_equal(again._data, y)
    assert not np.array_equal(getattr(F, name)(x, 0.3, True, generator=Generator(2))._data, y)
    assert getattr(F, name)(x, 0.3, False)._data.tolist() == x._data.tolist()
    with pytest.raises(ValueError, match="p must"):
        getattr(F, name)(x, 1.5, True)


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_dropout_keeps_mean_and_variance(name):
    x = dg.randn(20000, 2)
    y = getattr(nn, name)(0.4, generator=Generator(0))(x)._data
    assert abs(y.mean()) < 0.03
    assert abs(y.var() - 1) < 0.05


def test_dropout_module_draws_only_in_training():
    layer = nn.Dropout(0.5, generator=Generator(0))
    x = dg.ones(100)
    assert 20 < (layer(x)._data == 0).sum() < 80
    assert layer.eval()(x) is x


@pytest.mark.parametrize("name", ["ReLU", "ELU", "SiLU", "Hardtanh", "Dropout"])
def test_in_place_results(name):
    layer = getattr(nn, name)(inplace=True)
    leaf = dg.randn(50).requires_grad_()
    x = leaf * 1.0
    array = x._data
    expected = getattr(nn, name)()(dg.Tensor(array.copy()))._data if name != "Dropout" else None
    y = layer(x)
    assert y is x
    assert y._data is array
    if expected is not None:
        np.testing.assert_array_equal(array, expected)
    y.sum().backward()
    assert leaf.grad is not None
    with pytest.raises(GraphError, match="a leaf that requires a gradient"):
        layer(leaf)


def test_in_place_underscore_functions():
    x = dg.tensor([-1.0, 2.0])
    assert F.relu_(x) is x
    assert x.tolist() == [0, 2]
    assert F.threshold_(x, 1.0, 7.0).tolist() == [7, 2]


def test_gumbel_softmax():
    logits = dg.tensor(np.log([[0.2, 0.3, 0.5]] * 4000)).requires_grad_()
    hard = F.gumbel_softmax(logits, hard=True, generator=Generator(0))
    np.testing.assert_array_equal(np.unique(hard._data), [0, 1])
    np.testing.assert_allclose(hard._data.mean(axis=0), [0.2, 0.3, 0.5], atol=0.03)
    soft = F.gumbel_softmax(logits, tau=0.5, generator=Generator(0))
    np.testing.assert_allclose(soft._data.sum(axis=1), 1, rtol=1e-5)
    (hard * np.arange(3)).sum().backward()
    assert np.abs(logits.grad._data).max() > 0


def test_rrelu_draws_slopes_in_its_interval():
    x = -dg.ones(1000)
    y = -nn.RReLU(0.2, 0.6, generator=Generator(0))(x)._data
    assert y.min() >= 0.2
    assert y.max() <= 0.6
    assert y.std() > 0.1


def test_classes_outside_and_of_other_kinds_are_refused():
    x = dg.randn(3, 4)
    for loss in (F.cross_entropy, F.nll_loss):
        with pytest.raises(IndexError, match="class 4"):
            loss(x, np.array([0, 4, 1]))
        with pytest.raises(ShapeError, match=r"target \[2\]"):
            loss(x, np.array([0, 1]))
        with pytest.raises(DTypeError, match="class numbers"):
            loss(x, np.array([0.0, 1.0, 2.0]))
        with pytest.raises(ShapeError, match=r"weight is \[3\]"):
            loss(x, np.array([0, 1, 2]), np.ones(3))
        with pytest.raises(OptionError, match="reduction must be"):
            loss(x, np.array([0, 1, 2]), reduction="average")
    with pytest.raises(OptionError, match="label_smoothing"):
        F.cross_entropy(x, np.array([0, 1, 2]), label_smoothing=2.0)


def test_the_mean_over_nothing_is_nan_and_its_gradient_too():
    x = dg.randn(2, 3).requires_grad_()
    y = F.cross_entropy(x, np.array([-100, -100]))
    assert np.isnan(y.item())
    assert F.cross_entropy(x, np.array([-100, -100]), reduction="sum").item() == 0


def test_an_ignored_row_may_hold_anything():
    scores = np.array([[-np.inf, 0.0], [1.0, 2.0]])
    y = F.nll_loss(dg.Tensor(scores), np.array([-100, 1]))
    assert y.item() == -2


def test_losses_refuse_shapes_that_would_broadcast():
    for loss in (F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss):
        with pytest.raises(ShapeError, match=r"input is \[3\] but target \[3, 1\]"):
            loss(dg.ones(3), dg.ones((3, 1)))


def test_targets_of_whole_numbers_leave_float32_alone():
    x = dg.randn(3)
    for loss in (F.mse_loss, F.soft_margin_loss, F.binary_cross_entropy_with_logits):
        assert loss(x, dg.tensor([1, 0, 1])).dtype == np.float32


def test_padding_that_the_mode_cannot_give_is_refused():
    x = dg.ones((1, 1, 3))
    with pytest.raises(ShapeError, match="at most 2 elements to an axis of 3"):
        F.pad(x, (3, 0), "reflect")
    with pytest.raises(ShapeError, match="at most 3 elements to an axis of 3"):
        F.pad(x, (0, 4), "circular")
    with pytest.raises(ShapeError, match="up to 3 pairs"):
        F.pad(x, (1,))
    with pytest.raises(OptionError, match="mode must be"):
        F.pad(x, (1, 1), "mirror")
    with pytest.raises(OptionError, match="takes no value"):
        F.pad(x, (1, 1), "reflect", 3.0)


def test_convolutions_refuse_what_does_not_fit():
    x, weight = dg.ones((1, 2, 5)), dg.ones((4, 2, 3))
    with pytest.raises(ShapeError, match="conv1d: bias is"):
        F.conv1d(x, weight, dg.ones(3))
    with pytest.raises(OptionError, match="needs stride 1"):
        F.conv1d(x, weight, stride=2, padding="same")
    with pytest.raises(OptionError, match="'same' or 'valid'"):
        F.conv1d(x, weight, padding="full")
    with pytest.raises(ShapeError, match="conv2d: expected 4 axes, or 3 without a batch"):
        F.conv2d(dg.ones((5, 5)), dg.ones((1, 1, 2, 2)))
    with pytest.raises(OptionError, match="output_padding must be smaller"):
        F.conv_transpose1d(x, dg.ones((2, 4, 3)), stride=2, output_padding=2)
    with pytest.raises(ShapeError, match="divide into groups=3"):
        nn.Conv1d(4, 6, 3, groups=3)
    with pytest.raises(ShapeError, match="output_size must lie between"):
        nn.ConvTranspose1d(2, 4, 3, stride=2)(x, output_size=[14])


def test_norms_of_one_element_a_channel_are_refused():
    with pytest.raises(ShapeError, match="has no variance"):
        nn.BatchNorm1d(3)(dg.ones((1, 3)))
    with pytest.raises(ShapeError, match="has no variance"):
        nn.InstanceNorm1d(3)(dg.ones((2, 3, 1)))
    layer = nn.BatchNorm1d(3)
    assert layer(dg.ones((0, 3))).shape == (0, 3)  # a rank without data
    assert layer.running_mean.tolist() == [0, 0, 0]
    with pytest.raises(ShapeError, match="expected 4 axes and 3 channels"):
        nn.BatchNorm2d(3)(dg.ones((2, 3)))


def test_bags_refuse_offsets_that_do_not_fit():
    weight = dg.ones((5, 2))
    with pytest.raises(ShapeError, match="and offsets"):
        F.embedding_bag(np.array([1, 2]), weight)
    with pytest.raises(OptionError, match="leave them out"):
        F.embedding_bag(np.array([[1, 2]]), weight, np.array([0]))
    with pytest.raises(OptionError, match="must rise"):
        F.embedding_bag(np.array([1, 2]), weight, np.array([0, 2, 1]))
    with pytest.raises(OptionError, match="starts with 0"):
        F.embedding_bag(np.array([1, 2]), weight, np.array([1]))
    with pytest.raises(OptionError, match="are for mode='sum'"):
        F.embedding_bag(np.array([[1, 2]]), weight, per_sample_weights=dg.ones((1, 2)))


@pytest.mark.parametrize("bag", [False, True])
def test_sparse_gradients_are_dense_which_is_said_once(bag, monkeypatch):
    monkeypatch.setattr(tracebacks, "_warned", set())
    layer = nn.EmbeddingBag if bag else nn.Embedding
    with pytest.warns(UserWarning, match=f"{layer.__name__}: gradients are dense also with sparse=True"):
        layer(4, 2, sparse=True)
    function = F.embedding_bag if bag else F.embedding
    weight = dg.ones((4, 2), requires_grad=True)
    function(np.array([[1, 2]]), weight, sparse=True).sum().backward()
    each = 0.5 if bag else 1.0
    assert weight.grad.tolist() == [[0.0, 0.0], [each, each], [each, each], [0.0, 0.0]]


def test_interpolation_refuses_what_it_cannot_do():
    x = dg.ones((1, 1, 4, 4))
    with pytest.raises(OptionError, match="antialias=True is not offered"):
        F.interpolate(x, 2, mode="bilinear", antialias=True)
    with pytest.raises(OptionError, match="goes with scale_factor"):
        F.interpolate(x, 2, recompute_scale_factor=True)


def test_attention_refuses_masks_and_sizes_that_do_not_fit():
    layer = nn.MultiheadAttention(8, 2)
    x = dg.randn(4, 2, 8)
    with pytest.raises(ShapeError, match="for 4 keys"):
        layer(x, x, x, key_padding_mask=dg.asarray(np.zeros((2, 3), dtype=bool)))
    with pytest.raises(ShapeError, match=r"with \[8, 8, 8\] features"):
        layer(dg.randn(4, 2, 6), x, x)
    with pytest.raises(ShapeError, match="must divide into num_heads=3"):
        nn.MultiheadAttention(8, 3)


def test_attention_without_weights_gives_the_same():
    layer = nn.MultiheadAttention(8, 2)
    x = dg.randn(4, 2, 8)
    y, weights = layer(x, x, x, is_causal=True)
    z, none = layer(x, x, x, is_causal=True, need_weights=False)
    np.testing.assert_allclose(y._data, z._data, atol=1e-6)
    assert none is None
    assert np.triu(weights._data, 1).max() == 0
    np.testing.assert_allclose(weights._data.sum(-1), 1, rtol=1e-5)


def test_recurrent_networks_say_what_does_not_fit():
    net = nn.LSTM(3, 4)
    with pytest.raises(ShapeError, match="expected 3 features"):
        net(dg.randn(5, 2, 4))
    with pytest.raises(ShapeError, match=r"hx is \[\[1, 3, 4\], \[1, 3, 4\]\]"):
        net(dg.randn(5, 2, 3), (dg.zeros((1, 3, 4)), dg.zeros((1, 3, 4))))
    with pytest.warns(UserWarning, match="there is only one"):
        nn.GRU(3, 4, dropout=0.5)
    with pytest.raises(OptionError, match="nonlinearity"):
        nn.RNN(3, 4, nonlinearity="gelu")
    with pytest.raises(ShapeError, match="the state is"):
        nn.GRUCell(3, 4)(dg.ones((2, 3)), dg.ones((2, 3)))


SIZES = [
    ("Conv2d", (1, 1, 0), {}, "kernel_size"),
    ("Conv1d", (1, 1, -1), {}, "kernel_size"),
    ("Conv2d", (1, 1, 2.5), {}, "kernel_size"),
    *[("Conv2d", (1, 1, 3), {name: 0}, name) for name in ("stride", "dilation")],
    ("Conv2d", (1, 1, 3), {"padding": -1}, "padding"),
    ("ConvTranspose2d", (1, 1, 3), {"output_padding": -1}, "output_padding"),
    ("AvgPool2d", (2, 0), {}, "stride"),
    ("MaxPool2d", ((2, 0),), {}, "kernel_size"),
    ("MaxPool2d", (2,), {"dilation": 0}, "dilation"),
    ("LPPool2d", (2, 0), {}, "kernel_size"),
    ("Unfold", (2,), {"stride": 0}, "stride"),
    ("Unfold", (2,), {"padding": (-1, 0)}, "padding"),
]


@pytest.mark.parametrize(("name", "args", "options", "argument"), SIZES)
def test_sizes_of_windows_that_make_no_sense_are_refused(name, args, options, argument):
    with pytest.raises(OptionError, match=f"{argument} must be whole numbers of at least"):
        getattr(nn, name)(*args, **options)(dg.ones((1, 1, 6, 6)))


@pytest.mark.parametrize(
    ("layer", "shape", "where"),
    [
        (nn.Linear(3, 2), (4, 3), "linear"),
        (nn.Conv2d(1, 2, 3), (1, 1, 5, 5), "convolution"),
        (nn.ConvTranspose1d(1, 2, 3), (1, 1, 5), "conv_transpose1d"),
        (nn.LSTM(3, 2), (2, 1, 3), "linear"),
        (nn.TransformerEncoderLayer(4, 2, 8), (2, 1, 4), "linear"),
        (nn.BatchNorm2d(3), (2, 3, 2, 2), "batch_norm"),
        (nn.InstanceNorm1d(3, affine=True), (2, 3, 5), "instance_norm"),
        (nn.GroupNorm(3, 3), (2, 3, 5), "group_norm"),
        (nn.LayerNorm(4), (2, 4), "layer_norm"),
        (nn.RMSNorm(4), (2, 4), "rms_norm"),
        (nn.PReLU(), (2, 4), "prelu"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_of_another_dtype_than_the_weights_is_refused(layer, shape, where):
    x = dg.tensor(np.ones(shape))
    message = rf"{where}: x is float64 but weight float32; convert .* x.astype\(dg.float32\), or .* model.to"
    with pytest.raises(DTypeError, match=message):
        layer(x)
    layer(x.astype(dg.float32))
    layer.double()(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_plain_averages_of_batch_statistics_weigh_as_numbers_do(dtype):
    """``momentum=None`` counts in an array, as on a GPU nobody may look at it: the bits are a number's."""
    layer = nn.BatchNorm1d(3, momentum=None, affine=False)
    mean, var = dg.zeros(3), dg.ones(3)
    for step in range(1, 6):
        x = dg.tensor(np.random.default_rng(step).standard_normal((7, 3)).astype(dtype))
        layer(x)
        F.batch_norm(x, mean, var, training=True, momentum=1.0 / step)
    assert layer.running_mean._data.tobytes() == mean._data.tobytes()
    assert layer.running_var._data.tobytes() == var._data.tobytes()
