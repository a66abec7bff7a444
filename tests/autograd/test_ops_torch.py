"""Values and gradients of operations beside PyTorch's, where PyTorch is installed."""

import math

import numpy as np
import pytest

import distgrad as dg

torch = pytest.importorskip("torch")
F = torch.nn.functional

INDEX = np.array([[2, 0, 2, 1], [0, 0, 1, 2]])
CLASSES = np.array([1, 0, 3])
SIGNS = np.array([1.0, -1.0, 1.0])
CERTAIN = np.array([0.0, 1.0, 1.0, 0.0])
COUNTS = np.array([[0.0, 1.0, 2.0, 5.0]] * 3)
LABELS = np.array([[0, 2, -1, 1], [-1, 0, 0, 0], [3, 1, 2, 0]])
MASK = np.array([[True, False, True, True, False], [False] * 5, [True] * 5])
CTC_TARGETS = np.array([[1, 2, 2], [3, 1, 1]])
CTC_LENGTHS = np.array([6, 4]), np.array([3, 1])

# name: our function, PyTorch's, shapes of the inputs (or arrays), (low, high) of their random numbers
CASES = {}


def case(name, ours, theirs, *inputs, domain=(-3.0, 3.0)):
    CASES[name] = (ours, theirs, inputs, domain)


ACTIVATIONS = (
    "elu celu selu gelu silu mish softplus softsign tanhshrink relu6 hardswish hardtanh hardshrink softshrink"
    " leaky_relu logsigmoid"
)
for name in ACTIVATIONS.split():
    case(name, getattr(dg, name), getattr(F, name), (4, 50), domain=(-8.0, 8.0))
case("hardsigmoid", dg.hardsigmoid, lambda x: F.relu6(x + 3) / 6, (4, 50))  # its own gradient is in float32
case("gelu tanh", lambda x: dg.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh"), (4, 50))
case("softplus beta", lambda x: dg.softplus(x, beta=3.0), lambda x: F.softplus(x, beta=3.0), (4, 50))
case("threshold", lambda x: dg.threshold(x, 0.1, 20.0), lambda x: F.threshold(x, 0.1, 20.0), (4, 5))
case("glu", lambda x: dg.glu(x, axis=1), lambda x: F.glu(x, dim=1), (3, 4, 2))
case("prelu", dg.prelu, F.prelu, (2, 3, 4), (3,))
case("rrelu", dg.rrelu, F.rrelu, (3, 4))
for name in ["erf", "erfc", "erfinv", "ndtr", "logit"]:
    case(name, getattr(dg, name), getattr(torch.special, name), (4, 50), domain=(0.01, 0.99))
case("logsumexp", lambda x: dg.logsumexp(x, axis=(0, 2)), lambda x: torch.logsumexp(x, (0, 2)), (2, 3, 4))
case("xlogy", dg.xlogy, torch.xlogy, (3, 4), (4,), domain=(0.1, 2.0))

case("gather", lambda x: dg.gather(x, 0, INDEX), lambda x: torch.gather(x, 0, torch.tensor(INDEX)), (3, 6))
case(
    "scatter_add",
    lambda x, s: dg.scatter_add(x, 0, INDEX, s),
    lambda x, s: torch.scatter_add(x, 0, torch.tensor(INDEX), s),
    (3, 6),
    (2, 4),
)
case(
    "index_add",
    lambda x, s: dg.index_add(x, 1, INDEX[0], s, alpha=2.0),
    lambda x, s: torch.index_add(x, 1, torch.tensor(INDEX[0]), s, alpha=2.0),
    (2, 3, 2),
    (2, 4, 2),
)
case(
    "index_select",
    lambda x: dg.index_select(x, 1, INDEX[0]),
    lambda x: torch.index_select(x, 1, torch.tensor(INDEX[0])),
    (2, 3, 2),
)
for largest in (True, False):
    case(
        f"topk {largest}",
        lambda x, largest=largest: dg.topk(x, 3, 1, largest),
        lambda x, largest=largest: torch.topk(x, 3, 1, largest),
        (4, 7),
    )
case("cummax", lambda x: dg.cummax(x, 1), lambda x: torch.cummax(x, 1), (3, 9))
case("cummin", lambda x: dg.cummin(x, 0), lambda x: torch.cummin(x, 0), (3, 9))
case("cumprod", lambda x: dg.cumprod(x, 1), lambda x: torch.cumprod(x, 1), np.array([[2.0, 0.0, 3.0, 0.0]]))
case("cumsum", lambda x: dg.cumsum(x, 1), lambda x: torch.cumsum(x, 1), (3, 4))
case(
    "embedding",
    lambda w: dg.embedding(INDEX, w, padding_idx=1),
    lambda w: F.embedding(torch.tensor(INDEX), w, padding_idx=1),
    (5, 3),
)
case("kron", dg.kron, torch.kron, (2, 3), (4,))
case("bmm", dg.bmm, torch.bmm, (2, 3, 4), (2, 4, 5))
case("split", lambda x: dg.split(x, 2, 1), lambda x: torch.split(x, 2, 1), (2, 5))
case("chunk", lambda x: dg.chunk(x, 3, 1), lambda x: torch.chunk(x, 3, 1), (2, 7))
case("masked_select", lambda x: dg.masked_select(x, MASK), lambda x: x[torch.tensor(MASK)], (3, 5))

for mode in ("constant", "reflect", "replicate", "circular"):
    case(
        f"pad {mode}",
        lambda x, mode=mode: dg.pad(x, [(0, 0), (0, 0), (1, 2), (2, 1)], mode),
        lambda x, mode=mode: F.pad(x, (2, 1, 1, 2), mode),
        (2, 1, 3, 4),
    )
case(
    "unfold",
    lambda x: dg.unfold(x, (2, 3), 2, 1, (1, 2)),
    lambda x: F.unfold(x, (2, 3), 2, 1, (1, 2)),
    (2, 3, 5, 6),
)
case(
    "fold",
    lambda x: dg.fold(x, (5, 6), (2, 3), 2, 1, (1, 2)),
    lambda x: F.fold(x, (5, 6), (2, 3), 2, 1, (1, 2)),
    (2, 12, 10),
)

case(
    "layer_norm",
    lambda x, w, b: dg.layer_norm(x, w, b, normalized_shape=(3, 4)),
    lambda x, w, b: F.layer_norm(x, (3, 4), w, b),
    (2, 3, 4),
    (3, 4),
    (3, 4),
)
case(
    "rms_norm",
    lambda x, w: dg.rms_norm(x, w, normalized_shape=(4,)),
    lambda x, w: F.rms_norm(x, (4,), w),
    (2, 3, 4),
    (4,),
)
case(
    "batch_norm",
    dg.batch_norm,
    lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    (3, 4, 2),
    (4,),
    (4,),
)
case(
    "batch_norm_inference",
    dg.batch_norm_inference,
    lambda x, m, v, w, b: F.batch_norm(x, m.detach(), v.detach(), w, b),
    (3, 4, 2),
    (4,),
    (4,),
    (4,),
    (4,),
    domain=(0.5, 2.0),
)
case(
    "group_norm",
    lambda x, w, b: dg.group_norm(x, w, b, num_groups=2),
    lambda x, w, b: F.group_norm(x, 2, w, b),
    (3, 4, 2),
    (4,),
    (4,),
)
case(
    "instance_norm",
    dg.instance_norm,
    lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    (3, 4, 2, 3),
    (4,),
    (4,),
)

QKV = ((2, 4, 3, 6), (2, 4, 5, 6), (2, 4, 5, 2))
attend, torch_attend = dg.scaled_dot_product_attention, F.scaled_dot_product_attention
case("attention", attend, torch_attend, *QKV)
case(
    "attention causal",
    lambda *x: attend(*x, is_causal=True),
    lambda *x: torch_attend(*x, is_causal=True),
    *QKV,
)
case(
    "attention masked",
    lambda *x: attend(*x, attn_mask=MASK),
    lambda *x: torch_attend(*x, attn_mask=torch.tensor(MASK)),
    *QKV,
)
case(
    "attention biased",
    lambda q, k, v, m: attend(q, k, v, m, scale=0.2),
    lambda q, k, v, m: torch_attend(q, k, v, m, scale=0.2),
    *QKV,
    (3, 5),
)
case(
    "attention shared keys",
    lambda *x: attend(*x, enable_gqa=True),
    lambda *x: torch_attend(*x, enable_gqa=True),
    (2, 4, 3, 6),
    (2, 2, 5, 6),
    (2, 2, 5, 2),
)

for ceil_mode in (False, True):
    arguments = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": ceil_mode}
    case(
        f"max_pool {ceil_mode}",
        lambda x, a=arguments: dg.max_pool_with_indices(x, dilation=2, **a),
        lambda x, a=arguments: F.max_pool2d(x, dilation=2, return_indices=True, **a),
        (2, 3, 8, 7),
    )
    for include in (False, True):
        case(
            f"avg_pool {ceil_mode} {include}",
            lambda x, a=arguments, i=include: dg.avg_pool(x, count_include_pad=i, **a),
            lambda x, a=arguments, i=include: F.avg_pool2d(x, count_include_pad=i, **a),
            (2, 3, 8, 7),
        )
    case(
        f"lp_pool {ceil_mode}",
        lambda x, c=ceil_mode: dg.lp_pool(x, 2.0, 3, 2, c),
        lambda x, c=ceil_mode: F.lp_pool1d(x, 2.0, 3, 2, c),
        (2, 3, 8),
    )
case(
    "adaptive_avg_pool",
    lambda x: dg.adaptive_avg_pool(x, (3, 5)),
    lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    (2, 3, 8, 4),
)
case(
    "adaptive_max_pool",
    lambda x: dg.adaptive_max_pool(x, (3, 5)),
    lambda x: F.adaptive_max_pool2d(x, (3, 5), return_indices=True),
    (2, 3, 8, 4),
)
case(
    "max_unpool",
    lambda x: dg.max_unpool(x, np.array([[[5, 0, 3]]]), (7,)),
    lambda x: F.max_unpool1d(x, torch.tensor([[[5, 0, 3]]]), 2, output_size=(7,)),
    (1, 1, 3),
)

for mode in ("nearest", "nearest-exact", "area", "bilinear", "bicubic"):
    for where in ({"size": (7, 3)}, {"scale_factor": (1.7, 0.6)}):
        case(
            f"interpolate {mode} {where}",
            lambda x, m=mode, w=where: dg.interpolate(x, mode=m, **w),
            lambda x, m=mode, w=where: F.interpolate(x, mode=m, **w),
            (2, 3, 5, 6),
        )
for mode in ("bilinear", "bicubic"):
    case(
        f"interpolate {mode} corners",
        lambda x, m=mode: dg.interpolate(x, (7, 3), mode=m, align_corners=True),
        lambda x, m=mode: F.interpolate(x, (7, 3), mode=m, align_corners=True),
        (2, 3, 5, 6),
    )
case("pixel_shuffle", lambda x: dg.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x, 2), (2, 8, 2, 3))
case("pixel_unshuffle", lambda x: dg.pixel_unshuffle(x, 2), lambda x: F.pixel_unshuffle(x, 2), (2, 2, 4, 6))
case("channel_shuffle", lambda x: dg.channel_shuffle(x, 2), lambda x: F.channel_shuffle(x, 2), (2, 6, 3))

NONE = {"reduction": "none"}
for name, ours in (
    ("huber_loss", {"delta": 0.5}),
    ("smooth_l1_loss", {"beta": 0.5}),
    ("soft_margin_loss", {}),
):
    case(
        name,
        lambda x, t, n=name, o=ours: getattr(dg, n)(x, t, **o),
        lambda x, t, n=name, o=ours: getattr(F, n)(x, t, **o, **NONE),
        (3, 4),
        (3, 4),
    )
case(
    "binary_cross_entropy",
    dg.binary_cross_entropy,
    lambda x, t: F.binary_cross_entropy(x, t, **NONE),
    (3, 4),
    (3, 4),
    domain=(0.1, 0.9),
)
case(
    "binary_cross_entropy certain",
    lambda x: dg.binary_cross_entropy(x, CERTAIN),
    lambda x: F.binary_cross_entropy(x, torch.tensor(CERTAIN), **NONE),
    np.array([0.0, 1.0, 0.0, 1.0]),
)
case(
    "soft_margin_loss",
    lambda x: dg.soft_margin_loss(x, SIGNS),
    lambda x: F.soft_margin_loss(x, torch.tensor(SIGNS).expand(2, 3), **NONE),
    (2, 3),
)
case(
    "binary_cross_entropy_with_logits",
    dg.binary_cross_entropy_with_logits,
    lambda x, t, w: F.binary_cross_entropy_with_logits(x, t, pos_weight=w.detach(), **NONE),
    (3, 4),
    (3, 4),
    (4,),
    domain=(0.1, 0.9),
)
for log_target in (False, True):
    case(
        f"kl_div {log_target}",
        lambda x, t, o=log_target: dg.kl_div(x, t, log_target=o),
        lambda x, t, o=log_target: F.kl_div(x, t, log_target=o, **NONE),
        (3, 4),
        (3, 4),
        domain=(0.1, 0.9),
    )
for log_input in (False, True):
    case(
        f"poisson_nll_loss {log_input}",
        lambda x, o=log_input: dg.poisson_nll_loss(x, COUNTS, log_input=o, full=True),
        lambda x, o=log_input: F.poisson_nll_loss(x, torch.tensor(COUNTS), log_input=o, full=True, **NONE),
        (3, 4),
        domain=(0.5, 2.0),
    )
case(
    "gaussian_nll_loss",
    lambda x, t, v: dg.gaussian_nll_loss(x, t, v, full=True),
    lambda x, t, v: F.gaussian_nll_loss(x, t, v, full=True, **NONE),
    (3, 4),
    (3, 4),
    (3, 4),
    domain=(0.5, 2.0),
)
case(
    "hinge_embedding_loss",
    lambda x: dg.hinge_embedding_loss(x, SIGNS, margin=0.5),
    lambda x: F.hinge_embedding_loss(x, torch.tensor(SIGNS), margin=0.5, **NONE),
    (2, 3),
)
case(
    "margin_ranking_loss",
    lambda x, y: dg.margin_ranking_loss(x, y, SIGNS, margin=0.5),
    lambda x, y: F.margin_ranking_loss(x, y, torch.tensor(SIGNS), margin=0.5, **NONE),
    (3,),
    (3,),
)
case(
    "cosine_embedding_loss",
    lambda x, y: dg.cosine_embedding_loss(x, y, SIGNS, margin=-0.5),
    lambda x, y: F.cosine_embedding_loss(x, y, torch.tensor(SIGNS), margin=-0.5, **NONE),
    (3, 4),
    (3, 4),
)
for swap in (False, True):
    case(
        f"triplet_margin_loss {swap}",
        lambda *x, s=swap: dg.triplet_margin_loss(*x, margin=3.0, swap=s),
        lambda *x, s=swap: F.triplet_margin_loss(*x, margin=3.0, swap=s, **NONE),
        (3, 4),
        (3, 4),
        (3, 4),
    )
case(
    "multi_margin_loss",
    lambda x, w: dg.multi_margin_loss(x, CLASSES, w, p=2, margin=0.5),
    lambda x, w: F.multi_margin_loss(x, torch.tensor(CLASSES), 2, 0.5, w.detach(), **NONE),
    (3, 4),
    np.array([1.0, 0.5, 2.0, 3.0]),
)
case(
    "multilabel_margin_loss",
    lambda x: dg.multilabel_margin_loss(x, LABELS),
    lambda x: F.multilabel_margin_loss(x, torch.tensor(LABELS), **NONE),
    (3, 4),
)
case(
    "multilabel_soft_margin_loss",
    dg.multilabel_soft_margin_loss,
    lambda x, t: F.multilabel_soft_margin_loss(x, t, **NONE),
    (3, 4),
    (3, 4),
)
case(
    "ctc_loss",
    lambda x: dg.ctc_loss(dg.log_softmax(x), CTC_TARGETS, *CTC_LENGTHS),
    lambda x: F.ctc_loss(
        F.log_softmax(x, 2), torch.tensor(CTC_TARGETS), *map(torch.tensor, CTC_LENGTHS), **NONE
    ),
    (6, 2, 4),
)

case("norm", lambda x: dg.norm(x, 3, 1), lambda x: torch.norm(x, 3, 1), (3, 4))
case("normalize", lambda x: dg.normalize(x, 1.0, 0), lambda x: F.normalize(x, 1.0, 0), (3, 4))
case("cosine_similarity", dg.cosine_similarity, F.cosine_similarity, (3, 4), (3, 4))
case(
    "cosine_similarity (broadcast along the axis)",
    lambda x, y: dg.cosine_similarity(x, y, axis=-2),
    lambda x, y: F.cosine_similarity(x, y, dim=-2),
    (1, 2, 3),
    (2, 1, 3),
)
case(
    "cosine_similarity (another number of axes)",
    dg.cosine_similarity,
    F.cosine_similarity,
    (2, 3),
    (4, 2, 3),
)
case("pairwise_distance", dg.pairwise_distance, F.pairwise_distance, (3, 4), (3, 4))
for p in (1.0, 2.0, math.inf):
    case(
        f"cdist {p}",
        lambda x, y, p=p: dg.cdist(x, y, p),
        lambda x, y, p=p: torch.cdist(x, y, p),
        (3, 4),
        (2, 4),
    )
for q in (0.3, [0.0, 0.4, 1.0]):
    case(
        f"quantile {q}",
        lambda x, q=q: dg.quantile(x, q, axis=1),
        lambda x, q=q: torch.quantile(x, torch.tensor(q, dtype=torch.float64), 1),
        (3, 6),
    )
for subscripts, shapes in (
    ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))),
    ("iji,jk->k", ((2, 3, 2), (3, 4))),
    ("...i,ij,...j", ((2, 3), (3, 4), (2, 4))),
):
    case(
        f"einsum {subscripts}",
        lambda *x, s=subscripts: dg.einsum(s, *x),
        lambda *x, s=subscripts: torch.einsum(s, *x),
        *shapes,
    )


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    ours, theirs, inputs, domain = CASES[name]
    rng = np.random.default_rng(len(name))
    arrays = [x if isinstance(x, np.ndarray) else rng.uniform(*domain, x) for x in inputs]
    mine = [dg.Tensor(x.copy(), requires_grad=True) for x in arrays]
    other = [torch.tensor(x, requires_grad=True) for x in arrays]
    outs, references = ours(*mine), theirs(*other)
    outs = [outs] if isinstance(outs, dg.Tensor) else list(outs)
    references = [references] if isinstance(references, torch.Tensor) else list(references)
    assert len(outs) == len(references)
    total, reference_total = 0.0, 0.0
    for out, reference in zip(outs, references, strict=True):
        np.testing.assert_allclose(out.detach().numpy(), reference.detach().numpy(), rtol=1e-10, atol=1e-12)
        if reference.is_floating_point():
            weight = rng.standard_normal(out.shape)
            total = total + (out * weight).sum()
            reference_total = reference_total + (reference * torch.tensor(weight)).sum()
    total.backward()
    reference_total.backward()
    for x, reference in zip(mine, other, strict=True):
        if reference.grad is not None:  # PyTorch's running mean, variance and class weights have none
            np.testing.assert_allclose(x.grad.numpy(), reference.grad.numpy(), rtol=1e-8, atol=1e-10)
