"""Results and gradients at 0, ties, infinities and NaN, where formulas divide by nothing, are PyTorch's."""

import importlib
import math
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

CALLS = """
x.norm(); x.norm(2,0,keepdim=True); torch.linalg.vector_norm(x,2); torch.linalg.norm(x);
F.normalize(x,dim=0); x.var(); x.cumsum(0); x.amax(); x.amin(); x.max(0)[0]; x.sort()[0]; x.softmax(0);
x.log_softmax(0); F.leaky_relu(x); F.gelu(x,approximate='tanh'); F.silu(x); F.mish(x); F.softplus(x);
F.hardsigmoid(x); F.threshold(x,0.,5.); F.logsigmoid(x); F.tanhshrink(x); x.sigmoid(); x.tanh();
x.sqrt(); x.rsqrt(); x.pow(2); x.pow(0); x.pow(-1); x.pow(3); 2**x; (x.abs())**x; x.exp(); x.expm1();
x.log(); x.log1p(); x.log2(); x.log10(); x.reciprocal(); 1/x; x/x; x/x.abs(); x.sin(); x.tan();
x.asin(); x.acos(); x.atan(); x.asinh(); x.atanh(); x.sinh(); x.cosh(); x.erf(); x.erfc(); x.erfinv();
x.lgamma(); x.clamp(0,1); x.clamp(min=0); x.clamp(max=1); torch.where(x>0,x.log(),x);
torch.where(x>0,x,x.sqrt()); torch.fmax(x,x.flip(0)); torch.fmin(x,x.flip(0));
torch.special.xlog1py(x,x); torch.logit(x,eps=1e-6); torch.sinc(x); torch.special.i0e(x);
torch.special.ndtri(x); torch.special.ndtr(x); torch.special.erfcx(x); x.floor(); x.ceil(); x.round();
x.trunc(); x.frac(); x%1; x%-1.5; torch.fmod(x,1.5); torch.remainder(x,1.5);
torch.div(x,3,rounding_mode='trunc'); torch.nan_to_num(x); x.nansum(); x.nanmean(); x.nanmedian();
torch.logaddexp(x,x); torch.logaddexp(x,x.flip(0)); torch.logaddexp2(x,x); torch.cummax(x,0)[0];
torch.cummin(x,0)[0]; torch.dist(x,x); F.pairwise_distance(x.view(1,-1),x.view(1,-1));
F.cosine_similarity(x,0*x,0); torch.cdist(x.view(-1,1),x.view(-1,1));
torch.cdist(x.view(-1,1),x.view(-1,1),p=1); F.pdist(x.view(-1,1)); F.mse_loss(x,0*x);
F.smooth_l1_loss(x,0*x); F.huber_loss(x,0*x); F.binary_cross_entropy_with_logits(x,(x>0).float());
F.kl_div(x.log_softmax(0),x.softmax(0).detach()); F.kl_div(x,torch.zeros_like(x),reduction='sum');
F.poisson_nll_loss(x,x.detach().abs()); F.gaussian_nll_loss(x,0*x,x.detach().abs()+.1);
F.soft_margin_loss(x,x.detach().sign()); F.hinge_embedding_loss(x,torch.ones_like(x));
F.cross_entropy(x.view(1,-1),torch.tensor([0]));
F.cross_entropy(x.view(1,-1),torch.tensor([0]),label_smoothing=.1);
F.nll_loss(x.view(1,-1),torch.tensor([-100]),reduction='mean'); F.rms_norm(x,x.shape);
F.avg_pool1d(x.view(1,1,-1),1); F.adaptive_max_pool1d(x.view(1,1,-1),1);
F.lp_pool1d(x.view(1,1,-1),2.,1); F.glu(torch.cat([x,x]),0); F.softmin(x,0);
F.local_response_norm(x.view(1,1,-1),2); torch.outer(x,x); torch.trapezoid(x);
torch.ldexp(x,torch.ones_like(x)); torch.frexp(x)[0]; x.square(); torch.mvlgamma(x.abs()+2,1);
torch.float_power(x,2).float(); torch.corrcoef(x.view(1,-1)); torch.cov(x); torch.nanquantile(x,.5);
x.histc(3); torch.isclose(x,x); torch.signbit(x); torch.linalg.svdvals(x.view(1,-1));
torch.linalg.matrix_norm(x.view(1,-1)); torch.linalg.matrix_norm(x.view(1,-1),'nuc');
torch.trace(torch.outer(x,x)); x.argmax().float(); x.argmin().float(); x.argsort().float();
torch.aminmax(x)[0]; x.masked_fill(x>0,7.); x.masked_select(x>0); x[x>0]; F.dropout(x,0.)
"""
POINTS = {
    "zeros": [0.0, 0.0, 0.0],
    "whole": [0.0, 1.0, -1.0, 2.0],
    "halves": [0.5, -0.5, 1.5, 2.5, -1.5],
    "ties": [2.0, 2.0, 1.0, 2.0],
    "one": [1.0],
    "infinite": [math.inf, 1.0, -math.inf],
    "NaN": [math.nan, 1.0, 0.0],
    "large": [1e30, -1e30, 88.0, -104.0],
    "tiny": [1e-30, -1e-30, 1e-45, 0.0],
}


def computed(library, call, point):
    """A call's result and gradient, or None where it is refused."""
    names = {
        "torch": library,
        "F": importlib.import_module(f"{library.__name__}.nn.functional"),
        "inf": math.inf,
    }
    x = library.tensor(point, requires_grad=True)
    try:
        y = eval(call, names, {"x": x})
        if y.requires_grad and y.is_floating_point():
            y.sum().backward()
    except (RuntimeError, ValueError):
        return None
    return y.detach().numpy(), None if x.grad is None else x.grad.numpy()


@pytest.mark.parametrize("point", POINTS)
def test_the_same_as_pytorch(point):
    theirs, ours = (importlib.import_module(name) for name in ("torch", "distgrad.torch"))
    differing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in " ".join(CALLS.split()).split("; "):
            pair = [computed(library, call, POINTS[point]) for library in (theirs, ours)]
            try:
                assert (pair[0] is None) == (pair[1] is None)
                for want, got in zip(*(each or () for each in pair), strict=True):
                    assert (want is None) == (got is None)
                    if want is not None:
                        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
            except AssertionError:
                differing.append((call, *pair))
    assert not differing
