"""Pooling, norms, embeddings, padding, images and attention against PyTorch's."""

import numpy as np
import pytest
from nn.twins import Case, close, compare, make_pair, ours_of

from distgrad import nn

ROWS = np.array([[1, 0, 1], [4, 1, 2]])
FLAT = np.array([1, 0, 1, 4, 1, 2, 3])
MASK = np.triu(np.ones((4, 5), dtype=bool), 2)
CAUSAL = np.triu(np.full((4, 4), -np.inf), 1)
PER_HEAD = np.arange(80).reshape(4, 4, 5) % 7 == 3
PADDING = np.array([[False, False, True, False, True], [False, False, False, False, False]])
LAYER = {"dropout": 0.0, "batch_first": True}
TWO = ((2, 5, 8), (2, 4, 8))

POOLING = [
    Case("MaxPool2d", (3, 2), ((2, 3, 8, 7),), {"ceil_mode": True}),
    Case("MaxPool1d", (3,), ((2, 3, 8),), {"return_indices": True, "padding": 1}),
    Case("MaxPool2d", (2,), ((3, 8, 6),), {"return_indices": True, "stride": 1, "dilation": 2}),
    Case("MaxPool3d", (2,), ((2, 3, 5, 4, 6),), {"return_indices": True}),
    Case("AvgPool1d", (3,), ((2, 3, 9),), {"stride": 2, "padding": 1}),
    Case("AvgPool2d", ((3, 2),), ((2, 3, 8, 7),), {"padding": 1, "count_include_pad": False}),
    Case("AvgPool2d", (3, 2), ((3, 8, 8),), {"ceil_mode": True, "padding": 1}),
    Case("AvgPool3d", (2,), ((2, 3, 5, 4, 6),), {"divisor_override": 3}),
    Case("LPPool1d", (2, 3), ((2, 3, 9),)),
    Case("LPPool2d", (2, (3, 2)), ((2, 3, 8, 7),), {"ceil_mode": True, "stride": 2}),
    Case("LPPool3d", (2, 2), ((2, 3, 5, 4, 6),)),
    *[
        Case(
            f"LPPool{n}d", (3.0, 2), (np.abs(np.random.default_rng(n).standard_normal(shape)) + 0.1,), options
        )
        for n, shape in ((1, (2, 3, 9)), (2, (3, 7, 8)), (3, (2, 3, 5, 4, 6)))
        for options in ({"stride": 1}, {"stride": 3, "ceil_mode": True})
    ],
    Case("AdaptiveAvgPool1d", (4,), ((2, 3, 9),)),
    Case("AdaptiveAvgPool2d", ((3, None),), ((3, 8, 7),)),
    Case("AdaptiveAvgPool3d", (2,), ((2, 3, 5, 4, 6),)),
    Case("AdaptiveMaxPool1d", (4,), ((2, 3, 9),)),
    Case("AdaptiveMaxPool2d", ((3, 5),), ((2, 3, 8, 7),), {"return_indices": True}),
    Case("AdaptiveMaxPool3d", (2,), ((2, 3, 5, 4, 6),)),
    Case("MaxUnpool1d", (2,), ((1, 2, 3), np.array([[[0, 3, 5], [1, 2, 4]]]))),
    Case(
        "MaxUnpool2d",
        (2,),
        ((1, 1, 2, 2), np.array([[[[0, 3], [10, 14]]]])),
        keywords={"output_size": [5, 5]},
    ),
    Case("MaxUnpool3d", (2,), ((1, 1, 1, 2), np.array([[[[0, 14]]]])), {"stride": 2}),
]

NORMS = [
    Case("BatchNorm1d", (3,), ((4, 3),)),
    Case("BatchNorm1d", (3,), ((4, 3, 5),), {"momentum": None}),
    Case("BatchNorm2d", (3,), ((2, 3, 4, 5),), {"eps": 1e-3, "momentum": 0.3}),
    Case("BatchNorm2d", (3,), ((2, 3, 4, 5),), training=False),
    Case("BatchNorm2d", (3,), ((2, 3, 4, 5),), {"affine": False}),
    Case("BatchNorm2d", (3,), ((2, 3, 4, 5),), {"bias": False}),
    Case("BatchNorm3d", (3,), ((2, 3, 2, 3, 2),), {"track_running_stats": False}, training=False),
    Case("InstanceNorm1d", (3,), ((2, 3, 5),)),
    Case("InstanceNorm2d", (3,), ((3, 4, 5),), {"affine": True}),
    Case("InstanceNorm2d", (3,), ((2, 3, 4, 5),), {"affine": True, "track_running_stats": True}),
    Case("InstanceNorm3d", (3,), ((2, 3, 2, 3, 2),), {"track_running_stats": True}, training=False),
    Case("LayerNorm", (4,), ((2, 3, 4),)),
    Case("LayerNorm", ((3, 4),), ((2, 3, 4),), {"bias": False, "eps": 1e-2}),
    Case("LayerNorm", (4,), ((2, 3, 4),), {"elementwise_affine": False}),
    Case("RMSNorm", (4,), ((2, 3, 4),)),
    Case("RMSNorm", ((3, 4),), ((2, 3, 4),), {"eps": 1e-2, "elementwise_affine": False}),
    Case("GroupNorm", (2, 6), ((2, 6, 3, 4),)),
    Case("GroupNorm", (3, 9), ((2, 9),), {"affine": False}),
    Case("GroupNorm", (3, 9), ((2, 9),), {"bias": False}),
    Case("LocalResponseNorm", (3,), ((2, 5, 4),), {"alpha": 0.5}),
    Case("LocalResponseNorm", (2,), ((2, 5, 4, 3),), {"beta": 0.5, "k": 2.0}),
]

TABLES = [
    Case("Embedding", (5, 3), (ROWS,)),
    Case("Embedding", (5, 3), (np.array(2),)),
    Case("Embedding", (5, 3), (ROWS,), {"padding_idx": 1}),
    Case("Embedding", (5, 3), (ROWS,), {"padding_idx": -1, "scale_grad_by_freq": True}),
    Case("Embedding", (5, 3), (ROWS,), {"max_norm": 1.0, "norm_type": 1.0}),
    *[Case("EmbeddingBag", (5, 3), (ROWS,), {"mode": mode}) for mode in ("sum", "mean", "max")],
    *[
        Case("EmbeddingBag", (5, 3), (FLAT, np.array([0, 2, 2, 5])), {"mode": mode, "padding_idx": 1})
        for mode in ("sum", "mean", "max")
    ],
    Case("EmbeddingBag", (5, 3), (FLAT, np.array([0, 3, 7])), {"include_last_offset": True}),
    Case("EmbeddingBag", (5, 3), (ROWS, None, (2, 3)), {"mode": "sum"}),
]

SHAPES = [
    *[Case(f"{kind}Pad1d", (2,), ((2, 3, 5),)) for kind in ("Zero", "Reflection", "Replication", "Circular")],
    *[
        Case(f"{kind}Pad2d", ((1, 0, 2, 3),), ((2, 3, 5, 4),))
        for kind in ("Zero", "Reflection", "Replication", "Circular")
    ],
    *[
        Case(f"{kind}Pad3d", (1,), ((2, 2, 3, 4, 2),))
        for kind in ("Zero", "Reflection", "Replication", "Circular")
    ],
    Case("ConstantPad1d", ((1, 2), 3.5), ((3, 5),)),
    Case("ConstantPad2d", ((1, -2, 0, 3), 3.5), ((3, 5, 4),)),
    Case("ConstantPad3d", (1, -1.0), ((3, 2, 3, 4),)),
    Case("PixelShuffle", (2,), ((2, 8, 3, 4),)),
    Case("PixelUnshuffle", (2,), ((2, 2, 4, 6),)),
    Case("ChannelShuffle", (2,), ((2, 6, 3, 4),)),
    Case("Unfold", ((2, 3),), ((2, 3, 5, 6),), {"padding": 1, "stride": (2, 1)}),
    Case("Fold", ((5, 6), (2, 3)), ((2, 12, 16),), {"stride": (1, 1), "padding": 0}),
    Case("Unfold", (2,), ((3, 6, 5),), {"dilation": 2, "padding": (1, 2), "stride": 2}),
    Case("Fold", (7, 3), ((18, 4),), {"dilation": 2, "padding": 1, "stride": 3}),
    Case("Upsample", (), ((2, 3, 4, 5),), {"scale_factor": 2}),
    Case("Upsample", (), ((2, 3, 4),), {"size": 7, "mode": "linear"}),
    Case("Upsample", (), ((2, 3, 4, 5),), {"size": (7, 3), "mode": "bilinear"}),
    Case(
        "Upsample",
        (),
        ((2, 3, 4, 5),),
        {"scale_factor": (1.5, 2.0), "mode": "bicubic", "align_corners": True},
    ),
    Case("Upsample", (), ((2, 3, 3, 4, 2),), {"scale_factor": 2.0, "mode": "trilinear"}),
    *[
        Case("Upsample", (), (shape,), {"size": size, "mode": mode, "align_corners": corners})
        for mode, shape, size in (
            ("linear", (2, 3, 6), 4),
            ("bilinear", (2, 3, 6, 5), (4, 9)),
            ("bicubic", (2, 3, 6, 5), (4, 9)),
            ("trilinear", (1, 2, 4, 3, 5), (3, 5, 4)),
        )
        for corners in (False, True)
    ],
    Case("Upsample", (), ((2, 3, 4, 5),), {"scale_factor": 1.7, "mode": "nearest-exact"}),
    *[
        Case(
            "Upsample",
            (),
            ((2, 3, 5, 7),),
            {"scale_factor": (1.5, 0.7), "mode": mode, "recompute_scale_factor": True},
        )
        for mode in ("nearest", "bilinear", "bicubic")
    ],
    Case("UpsamplingNearest2d", (), ((2, 3, 4, 5),), {"scale_factor": 2}),
    Case("UpsamplingBilinear2d", (), ((2, 3, 4, 5),), {"size": (6, 7)}),
    Case("CosineSimilarity", (), ((3, 4), (3, 4))),
    Case("CosineSimilarity", (-1,), ((3, 4), (4,)), {"eps": 1e-3}),
    Case("PairwiseDistance", (), ((3, 4), (3, 4))),
    Case("PairwiseDistance", (1.0,), ((3, 4), (4,)), {"keepdim": True}),
    Case("Bilinear", (3, 4, 2), ((5, 3), (5, 4))),
    Case("Bilinear", (3, 4, 2), ((2, 5, 3), (2, 5, 4)), {"bias": False}),
]

ATTENTION = [
    Case("MultiheadAttention", (8, 2), ((4, 2, 8), (5, 2, 8), (5, 2, 8))),
    Case("MultiheadAttention", (8, 2), ((4, 8), (5, 8), (5, 8)), {"bias": False}),
    Case(
        "MultiheadAttention",
        (8, 2),
        ((2, 4, 8), (2, 5, 3), (2, 5, 6)),
        {"kdim": 3, "vdim": 6, "batch_first": True},
        keywords={"key_padding_mask": PADDING, "attn_mask": MASK, "average_attn_weights": False},
    ),
    Case(
        "MultiheadAttention",
        (8, 2),
        ((4, 2, 8), (5, 2, 8), (5, 2, 8)),
        {"add_bias_kv": True, "add_zero_attn": True},
        keywords={"key_padding_mask": PADDING},
    ),
    Case(
        "MultiheadAttention",
        (8, 2),
        ((4, 2, 8), (4, 2, 8), (4, 2, 8)),
        keywords={"attn_mask": CAUSAL, "need_weights": False},
    ),
    Case(
        "MultiheadAttention",
        (8, 2),
        ((2, 4, 8), (2, 5, 8), (2, 5, 8)),
        {"batch_first": True, "add_bias_kv": True, "bias": False},
        keywords={"attn_mask": PER_HEAD, "key_padding_mask": PADDING},
    ),
    Case(
        "MultiheadAttention",
        (8, 2),
        ((4, 2, 8), (4, 2, 8), (4, 2, 8)),
        {"dropout": 0.5},
        training=False,
        keywords={"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    ),
    *[
        Case(
            "MultiheadAttention", (8, 2), ((4, 2, 8),) * 3, {"dropout": 1.0}, keywords={"need_weights": need}
        )
        for need in (True, False)
    ],
    Case("TransformerEncoderLayer", (8, 2, 16), ((4, 2, 8),), {"dropout": 1.0}),
    Case("TransformerDecoderLayer", (8, 2, 16), ((4, 2, 8), (5, 2, 8)), {"dropout": 1.0, "norm_first": True}),
    Case("TransformerEncoderLayer", (8, 2, 16), ((2, 4, 8),), LAYER),
    Case(
        "TransformerEncoderLayer",
        (8, 2, 16),
        ((2, 5, 8),),
        {**LAYER, "norm_first": True},
        keywords={"src_key_padding_mask": PADDING},
    ),
    Case(
        "TransformerDecoderLayer",
        (8, 2, 16),
        ((4, 2, 8), (5, 2, 8)),
        {"dropout": 0.0, "activation": "gelu", "bias": False},
        keywords={"tgt_mask": CAUSAL, "tgt_is_causal": True, "memory_mask": MASK},
    ),
    Case(
        "TransformerEncoderLayer", (8, 2, 16), ((4, 8),), {**LAYER, "norm_first": True, "activation": "gelu"}
    ),
    Case("TransformerEncoderLayer", (8, 2, 16), ((4, 2, 8), CAUSAL), {"dropout": 0.0, "bias": False}),
    Case("TransformerDecoderLayer", (8, 2, 16), ((2, 4, 8), (2, 5, 8)), LAYER),
    Case(
        "TransformerDecoderLayer",
        (8, 2, 16),
        ((2, 4, 8), (2, 5, 8)),
        {**LAYER, "norm_first": True},
        keywords={"tgt_mask": CAUSAL, "memory_key_padding_mask": PADDING},
    ),
    Case(
        "Transformer", (8, 2, 2, 2, 16), TWO, {**LAYER, "activation": "gelu"}, keywords={"tgt_mask": CAUSAL}
    ),
]

CASES = [*POOLING, *NORMS, *TABLES, *SHAPES, *ATTENTION]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_equals_its_pytorch_twin(case, dtype):
    compare(case, dtype)


@pytest.mark.parametrize("case", [*POOLING, *NORMS, *TABLES, *SHAPES], ids=str)
def test_layer_shows_itself_as_its_pytorch_twin(case):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, "float32", torch)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_of_the_users_own_layers_equals_pytorchs(training):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    layers = []
    for library in (nn, torch.nn):
        layer = library.TransformerEncoderLayer(8, 2, 16, **LAYER)
        stack = library.TransformerEncoder(layer, 3, library.LayerNorm(8), enable_nested_tensor=False)
        layers.append(stack.double().train(training))
    ours, theirs = layers
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(1).standard_normal((2, 5, 8))
    mask = np.triu(np.ones((5, 5), dtype=bool), 1)
    y = ours(ours_of(x), mask=ours_of(mask), src_key_padding_mask=ours_of(PADDING))
    u = theirs(torch.tensor(x), mask=torch.tensor(mask), src_key_padding_mask=torch.tensor(PADDING))
    kept = ~PADDING  # in PyTorch's evaluation mode what stands at padded places is another number
    close(ours_of(y.detach().numpy()[kept]), u[torch.tensor(kept)], 1e-10, "encoder")
    square = nn.Transformer.generate_square_subsequent_mask(4)
    close(square, torch.nn.Transformer.generate_square_subsequent_mask(4), 0.0, "mask")


def test_stacks_of_layers_equal_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    case = Case("Transformer", (8, 2, 1, 2, 16), (), {**LAYER, "norm_first": True})
    ours, theirs = make_pair(case, "float64", torch)
    rng = np.random.default_rng(0)
    src, tgt = rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 4, 8))
    close(ours.encoder(ours_of(src)), theirs.encoder(torch.tensor(src)), 1e-10, "encoder")
    close(
        ours.decoder(ours_of(tgt), ours_of(src), tgt_is_causal=True),
        theirs.decoder(torch.tensor(tgt), torch.tensor(src), tgt_mask=torch.tensor(CAUSAL)),
        1e-10,
        "decoder",
    )
