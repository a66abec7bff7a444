"""Linear maps, convolution, activations and the rest of the plain modules against PyTorch's."""

import numpy as np
import pytest
from nn.twins import Case, compare, make_pair

SIDES = np.array(  # of every kink, and far out
    [-800.0, -25.0, -4.0, -3.0, -1.0, -0.7, -0.5, -0.2, 0.0, 0.3, 0.5, 0.8, 1.0, 3.0, 6.0, 7.0, 90.0]
)
ELEMENTWISE = [
    *["ReLU", "ReLU6", "ELU", "SELU", "SiLU", "Mish", "LeakyReLU", "Sigmoid", "LogSigmoid", "Tanh"],
    *["Tanhshrink", "Softplus", "Softsign", "Softshrink", "Hardshrink", "Hardtanh", "Hardswish"],
]
SINGLE_CONSTANT = {"float64": 1e-7}  # PyTorch's gradient holds a float32 constant in float64 too

CASES = [
    Case("Linear", (3, 4), ((5, 3),)),
    Case("Linear", (3, 4), ((2, 5, 3),), {"bias": False}),
    Case("Linear", (3, 4), ((3,),)),
    Case("Identity", (), ((2, 3),)),
    Case("Flatten", (), ((2, 3, 4),)),
    Case("Flatten", (0, 1), ((2, 3, 4),)),
    Case("Unflatten", (1, (2, 3)), ((2, 6, 4),)),
    Case("Unflatten", (-1, (2, -1)), ((2, 6),)),
    # convolution
    Case("Conv1d", (4, 6, 3), ((2, 4, 9),)),
    Case("Conv1d", (4, 6, 3), ((4, 9),), {"stride": 2, "padding": 1, "bias": False}),
    Case("Conv1d", (4, 6, 4), ((2, 4, 9),), {"padding": "same", "dilation": 2}),
    Case("Conv1d", (4, 6, 3), ((2, 4, 9),), {"padding": 2, "padding_mode": "circular", "groups": 2}),
    *[
        Case(f"Conv{n}d", (2, 4, 3), (shape,), {"padding": 2, "padding_mode": mode, "stride": 2})
        for n, shape in ((1, (2, 2, 6)), (2, (2, 2, 5, 6)), (3, (2, 2, 4, 3, 5)))
        for mode in ("zeros", "reflect", "replicate", "circular")
    ],
    *[
        Case(f"Conv{n}d", (2, 4, 3), (shape,), {"padding": "same", "padding_mode": mode})
        for n, shape in ((1, (2, 2, 6)), (3, (2, 2, 4, 3, 5)))
        for mode in ("reflect", "replicate", "circular")
    ],
    Case("Conv2d", (4, 6, 3), ((2, 4, 7, 8),)),
    Case("Conv2d", (4, 6, (3, 2)), ((2, 4, 7, 8),), {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
    Case("Conv2d", (4, 6, (2, 3)), ((2, 4, 7, 8),), {"padding": "same", "padding_mode": "reflect"}),
    Case("Conv2d", (4, 4, 3), ((4, 7, 8),), {"padding": 1, "padding_mode": "replicate", "groups": 4}),
    Case("Conv2d", (4, 6, 3), ((2, 4, 7, 8),), {"padding": "valid", "dilation": (2, 1)}),
    Case("Conv3d", (2, 4, 3), ((2, 2, 5, 4, 6),), {"padding": 1, "stride": (1, 2, 2)}),
    Case("Conv3d", (2, 4, 2), ((2, 2, 5, 4, 6),), {"padding": "same", "groups": 2}),
    Case("ConvTranspose1d", (4, 6, 3), ((2, 4, 5),), {"stride": 2, "output_padding": 1, "groups": 2}),
    Case("ConvTranspose2d", (4, 6, 3), ((2, 4, 5, 4),), {"stride": (2, 1), "padding": 1, "dilation": (1, 2)}),
    Case("ConvTranspose2d", (4, 6, 3), ((4, 5, 4),), {"bias": False}),
    Case("ConvTranspose2d", (2, 3, 3), ((1, 2, 4, 4),), {"stride": 3}, keywords={"output_size": [14, 13]}),
    Case("ConvTranspose3d", (2, 4, 2), ((2, 2, 3, 3, 2),), {"stride": 2, "padding": 1}),
    # pooling
    Case("MaxPool1d", (2,), ((2, 3, 9),)),
    Case("MaxPool2d", (2,), ((2, 3, 8, 6),)),
    Case("MaxPool2d", ((3, 2),), ((3, 8, 7),), {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 2)}),
    Case("MaxPool3d", (2,), ((2, 3, 4, 5, 6),), {"stride": 1, "padding": 1}),
    # activations
    *[Case(name, (), ((3, 4),)) for name in ELEMENTWISE],
    *[Case(name, (), (SIDES,)) for name in ELEMENTWISE],
    *[Case(name, (0.7,), (SIDES,)) for name in ("ELU", "LeakyReLU", "Softshrink", "Hardshrink")],
    Case("CELU", (), (SIDES,)),
    Case("CELU", (0.7,), (SIDES,), tolerance=SINGLE_CONSTANT),
    Case("Hardsigmoid", (), (SIDES,), tolerance=SINGLE_CONSTANT),
    Case("GELU", (), (SIDES[1:],)),
    Case("GELU", (), ((3, 4),), {"approximate": "tanh"}),
    Case("Hardtanh", (-0.5, 2.0), (SIDES,)),
    Case("Threshold", (0.1, 20.0), (SIDES,)),
    Case("Softplus", (2.0, 5.0), (SIDES,)),
    Case("RReLU", (), (SIDES,), training=False),
    Case("PReLU", (), ((2, 3, 4),)),
    Case("PReLU", (), ((),)),
    Case("PReLU", (3, 0.1), ((2, 3, 4, 2),)),
    Case("GLU", (), ((3, 4),)),
    Case("GLU", (1,), ((3, 4, 5),)),
    *[Case(name, (1,), ((3, 4, 5),)) for name in ("Softmax", "Softmin", "LogSoftmax")],
    *[Case("Softmax2d", (), (shape,)) for shape in ((2, 3, 4, 5), (3, 4, 5))],
    # dropout, where it leaves all or nothing
    *[Case(name, (0.5,), ((2, 3, 4),), training=False) for name in ("Dropout", "Dropout1d", "AlphaDropout")],
    *[
        Case(name, (p,), ((2, 3, 4, 5),))
        for name in ("Dropout", "Dropout2d", "AlphaDropout")
        for p in (0.0, 1.0)
    ],
    Case("Dropout3d", (1.0,), ((2, 3, 4, 5),)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_equals_its_pytorch_twin(case, dtype):
    compare(case, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_shows_itself_as_its_pytorch_twin(case):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    ours, theirs = make_pair(case, "float32", torch)
    assert repr(ours) == repr(theirs)
