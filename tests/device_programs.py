"""Modules and training steps that every device must compute as the CPU does.

The fake device, CuPy on a test double and a real GPU run the same programs; each is a plain function of a
device that starts from the same numbers on all.
"""

import numpy as np

import distgrad as dg
from distgrad import nn, optim
from distgrad.autograd.tensor import Tensor
from distgrad.backend.device import CPU, resolve, to_device
from distgrad.nn import functional as F

RNG = np.random.default_rng
CLASSES = np.array([1, 0, 3])

#: name: (how the module is made, shapes or arrays that it is called with)
MODULES = {
    "Linear": (lambda: nn.Linear(4, 3), [(5, 4)]),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1, stride=2), [(2, 2, 5, 6)]),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, groups=2), [(2, 2, 7)]),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), [(2, 2, 4, 3)]),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), [(4, 3, 5, 2)]),
    "BatchNorm1d_averaged": (lambda: nn.BatchNorm1d(3, momentum=None), [(4, 3)]),
    "LayerNorm": (lambda: nn.LayerNorm(6), [(3, 2, 6)]),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), [(2, 4, 3)]),
    "RMSNorm": (lambda: nn.RMSNorm(6), [(3, 6)]),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, track_running_stats=True), [(2, 2, 3, 4)]),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), [(2, 3, 4, 6)]),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), [(2, 3, 5, 6)]),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), [(2, 3, 5, 4)]),
    "Embedding": (lambda: nn.Embedding(7, 4, padding_idx=1), [np.array([[1, 0, 6], [3, 3, 2]])]),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 4, mode="mean"), [np.array([[1, 0, 6], [3, 3, 2]])]),
    "Dropout": (lambda: nn.Dropout(0.4), [(5, 6)]),
    "GELU": (nn.GELU, [(3, 4)]),
    "SiLU": (nn.SiLU, [(3, 4)]),
    "Softmax": (lambda: nn.Softmax(dim=-1), [(3, 4)]),
    "LSTM": (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True), [(5, 2, 3)]),
    "GRU": (lambda: nn.GRU(3, 4, batch_first=True), [(2, 5, 3)]),
    "RNN": (lambda: nn.RNN(3, 4), [(5, 2, 3)]),
    "MultiheadAttention": (
        lambda: Attended(nn.MultiheadAttention(8, 2, batch_first=True)),
        [(2, 3, 8)],
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        [(2, 3, 8)],
    ),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), [(1, 2, 3, 4)]),
    "Flatten": (nn.Flatten, [(2, 3, 4)]),
}


class Attended(nn.Module):
    """Causal self-attention by a module that takes three inputs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x, x, x, is_causal=True)[0]


#: name: loss of random scores [3, 4] and what it is compared with
LOSSES = {
    "cross_entropy": lambda x, put: F.cross_entropy(x, put(CLASSES)),
    "cross_entropy_ignore": lambda x, put: F.cross_entropy(
        x, put(np.array([1, -100, 3])), weight=put(np.array([1.0, 2.0, 0.5, 1.5], np.float32))
    ),
    "cross_entropy_smoothed": lambda x, put: F.cross_entropy(x, put(CLASSES), label_smoothing=0.1),
    "nll_loss": lambda x, put: F.nll_loss(F.log_softmax(x, dim=1), put(CLASSES)),
    "mse_loss": lambda x, put: F.mse_loss(x, put(np.full((3, 4), 0.5, np.float32))),
    "l1_loss": lambda x, put: F.l1_loss(x, put(np.full((3, 4), 0.5, np.float32))),
    "smooth_l1_loss": lambda x, put: F.smooth_l1_loss(x, put(np.full((3, 4), 0.5, np.float32))),
    "binary": lambda x, put: F.binary_cross_entropy_with_logits(x, put(np.eye(3, 4, dtype=np.float32))),
    "kl_div": lambda x, put: F.kl_div(
        F.log_softmax(x, dim=1), put(np.full((3, 4), 0.25, np.float32)), reduction="batchmean"
    ),
}

RULES = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.Adam, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    (optim.AdamW, {}),
    (optim.RMSprop, {"momentum": 0.8, "centered": True}),
    (optim.Adagrad, {"lr_decay": 0.2, "initial_accumulator_value": 0.3}),
    (optim.Adadelta, {}),
    (optim.Adamax, {}),
    (optim.NAdam, {}),
    (optim.RAdam, {}),
    (optim.Rprop, {}),
    (optim.ASGD, {"lambd": 0.1, "t0": 2}),
    (optim.Adafactor, {}),
    (optim.Lion, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.LAMB, {"lr": 0.1}),
    (optim.LARS, {"lr": 1.0, "weight_decay": 0.1}),
    (optim.Muon, {}),
    (optim.SparseAdam, {}),
]


def sender(device):
    """What brings an array to a device as a tensor."""
    return lambda array: Tensor(to_device(np.array(array), resolve(device)))


def on_host(tensors):
    """Arrays of tensors, on the host."""
    return [to_device(tensor._data, CPU) for tensor in tensors]


def run_module(name, device):
    """Output, gradients of inputs and parameters, and buffers after a step."""
    make, shapes = MODULES[name]
    dg.manual_seed(3)
    module = make().to(device)
    rng, put = RNG(5), sender(device)
    inputs = [
        put(rng.standard_normal(each).astype(np.float32) if isinstance(each, tuple) else each)
        for each in shapes
    ]
    for x in inputs:
        if x.dtype.kind == "f":
            x.requires_grad_()
    y = module(*inputs)
    y = y[0] if isinstance(y, tuple) else y
    (y * y).sum().backward()
    parameters = list(module.parameters())
    grads = [x.grad for x in (*inputs, *parameters) if x.grad is not None]
    assert {each.device for each in (y, *grads, *module.buffers())} == {resolve(device)}
    return on_host([y, *grads, *module.buffers()])


def run_loss(name, device):
    """Loss and gradient."""
    put = sender(device)
    x = put(RNG(5).standard_normal((3, 4)).astype(np.float32)).requires_grad_()
    loss = LOSSES[name](x, put)
    loss.backward()
    return on_host([loss, x.grad])


def run_optimizer(rule, options, device, steps=3):
    """Parameters and state after some steps; one of the parameters has no gradient in one of them.

    The numbers of the state, which lie on the host, come first, in one array.
    """
    rng, put = RNG(3), sender(device)
    shapes = [(3, 4), (5, 2)] if rule is optim.Muon else [(3, 4), (5,), ()]
    params = [put(rng.standard_normal(shape).astype(np.float32)).requires_grad_() for shape in shapes]
    optimizer = rule(params, **options)
    for step in range(steps):
        for place, p in enumerate(params):
            g = rng.standard_normal(p.shape).astype(np.float32)
            p.grad = None if (place, step) == (1, 1) else put(g)
        optimizer.step()
    assert {p.device for p in params} == {resolve(device)}
    state = optimizer.state_dict()["state"]
    values = [state[i][name] for i in state for name in sorted(state[i]) if name != "step"]
    numbers = np.array([value for value in values if isinstance(value, float)])
    arrays = [to_device(value, CPU) for value in values if not isinstance(value, float)]
    return [numbers, *on_host(params), *arrays]


class Gpt(nn.Module):
    """A language model of two blocks."""

    def __init__(self, classes=11, length=6, width=8, heads=2):
        super().__init__()
        self.tokens, self.places = nn.Embedding(classes, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        self.register_buffer("order", dg.arange(length), persistent=False)

    def forward(self, x):
        y = self.tokens(x) + self.places(self.order)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]).to(y.device)
        for block in self.blocks:
            y = block(y, src_mask=mask, is_causal=True)
        return self.head(self.norm(y)).reshape(-1, self.head.out_features)


def _mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


def _cnn():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.2), nn.Linear(36, 4)),
    )


class Recurrent(nn.Module):
    """An LSTM of two layers, and classes from its last step."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


#: name: (model, batch of inputs, classes of the targets, number of targets)
STEPS = {
    "mlp": (_mlp, lambda rng: rng.standard_normal((8, 6)).astype(np.float32), 4, 8),
    "cnn": (_cnn, lambda rng: rng.standard_normal((8, 1, 8, 8)).astype(np.float32), 4, 8),
    "gpt": (Gpt, lambda rng: rng.integers(0, 11, (3, 6)), 11, 18),
    "lstm": (Recurrent, lambda rng: rng.standard_normal((8, 5, 5)).astype(np.float32), 4, 8),
}


def train(name, device, steps=3, around_step=None, wrap=None):
    """Losses, parameters and buffers after some steps of AdamW with clipped gradients.

    Args:
        name: of :data:`STEPS`.
        device: where.
        steps: how many.
        around_step: a context manager that each step's computation runs in; reading the loss does not.
        wrap: what the model is wrapped in.
    """
    make, batch, classes, count = STEPS[name]
    dg.manual_seed(1)
    model = make().to(device)
    model = model if wrap is None else wrap(model)
    optimizer = optim.AdamW(model.parameters(), lr=0.01, eps=1e-3)  # or rounding would be a step of its own
    rng, put, losses = RNG(0), sender(device), []
    for _ in range(steps):
        x, target = put(batch(rng)), put(rng.integers(0, classes, count))
        if around_step is None:
            loss = _step(model, optimizer, x, target)
        else:
            with around_step():
                loss = _step(model, optimizer, x, target)
        losses.append(loss.item())
    return [np.array(losses), *on_host([*model.parameters(), *model.buffers()])]


def _step(model, optimizer, x, target):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), target)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return loss


def assert_same(found, expected, rtol=0.0, atol=0.0):
    """Arrays that are equal, within a tolerance."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
