"""``torch.distributions`` beside PyTorch's own: one expression, evaluated by both."""

import numpy as np
import pytest

import distgrad.torch as ours

real = pytest.importorskip("torch", reason="results are compared with PyTorch's")

T = "torch.tensor"
KINDS = {
    "Gamma": "d.Gamma({t}(1.5), {t}(2.0))",
    "Chi2": "d.Chi2({t}(3.0))",
    "InverseGamma": "d.InverseGamma({t}(1.5), {t}(2.0))",
    "InverseGamma2": "d.InverseGamma({t}(2.5), {t}(1.0))",
    "Categorical": "d.Categorical({t}([0.2, 0.8]))",
    "OneHotCategorical": "d.OneHotCategorical({t}([0.3, 0.7]))",
    "StraightThrough": "d.OneHotCategoricalStraightThrough({t}([0.6, 0.4]))",
    "Multinomial": "d.Multinomial(3, {t}([0.3, 0.7]))",
    "RelaxedOneHot": "d.RelaxedOneHotCategorical({t}(0.5), {t}([0.3, 0.7]))",
    "RelaxedBernoulli": "d.RelaxedBernoulli({t}(0.5), {t}(0.3))",
    "Binomial3": "d.Binomial(3, {t}(0.3))",
    "Binomial5": "d.Binomial(5, {t}(0.4))",
    "HalfNormal": "d.HalfNormal({t}(1.3))",
    "HalfCauchy": "d.HalfCauchy({t}(1.3))",
    "Cauchy": "d.Cauchy({t}(0.3), {t}(1.0))",
    "LogNormal": "d.LogNormal({t}(0.3), {t}(1.0))",
    "LogNormal2": "d.LogNormal({t}(0.1), {t}(2.0))",
    "Weibull": "d.Weibull({t}(1.0), {t}(1.0))",
    "Weibull2": "d.Weibull({t}(5.0), {t}(2.0))",
    "Affine": "d.TransformedDistribution(d.Normal({t}(0.0), {t}(1.0)), [d.AffineTransform(0.0, 1.0)])",
    "Affine2": "d.TransformedDistribution(d.Normal({t}(0.0), {t}(1.0)), [d.AffineTransform(5.0, 1.0)])",
    "Vector": "d.TransformedDistribution(d.Normal({t}([0.0]), 1.0), [d.AffineTransform(5.0, 1.0)])",
    "Inverse": "d.TransformedDistribution(d.Gamma({t}(1.0), {t}(1.0)), [d.ExpTransform().inv])",
}  # fmt: skip
KINDS = {name: text.replace("{t}", T) for name, text in KINDS.items()}


def result(torch, text):
    """The values of an expression, or the class of its error."""
    try:
        found = eval(text, {"torch": torch, "d": torch.distributions})
    except (NotImplementedError, ValueError) as error:
        return NotImplementedError if isinstance(error, NotImplementedError) else ValueError
    if isinstance(found, tuple):
        return [tuple(each) for each in found]
    return found.detach().numpy() if hasattr(found, "detach") else found


def compare(text, rtol=1e-5):
    first, second = result(ours, text), result(real, text)
    if isinstance(second, np.ndarray):
        assert isinstance(first, np.ndarray), f"{text}: {first} instead of {second}"
        assert first.dtype == second.dtype
        np.testing.assert_allclose(first, second, rtol=rtol, atol=1e-7, err_msg=text)
    else:
        assert first == second, text


@pytest.mark.parametrize("first", KINDS)
def test_a_divergence_is_pytorchs_or_none(first):
    for second in KINDS:
        compare(f"d.kl_divergence({KINDS[first]}, {KINDS[second]})", rtol=1e-4)


def test_transforms_are_equal_when_their_parameters_are():
    base = "d.Normal(torch.zeros(2), torch.ones(2))"
    for one, other in [
        ("d.ExpTransform()", "d.ExpTransform()"),
        ("d.ExpTransform()", "d.AbsTransform()"),
        ("d.PowerTransform(torch.tensor(2.0))", "d.PowerTransform(torch.tensor(3.0))"),
        ("d.PowerTransform(torch.tensor(2.0))", "d.PowerTransform(torch.tensor(2.0))"),
        ("d.AffineTransform(1.0, torch.ones(2))", "d.AffineTransform(1.0, torch.ones(2))"),
        ("d.AffineTransform(1.0, torch.ones(2))", "d.AffineTransform(1.0, 2 * torch.ones(2))"),
        ("d.ComposeTransform([d.ExpTransform()])", "d.ComposeTransform([d.TanhTransform()])"),
        ("d.ComposeTransform([d.ExpTransform()])", "d.ComposeTransform([d.ExpTransform()])"),
    ]:
        compare(f"{one} == {other}")
        compare(
            f"d.kl_divergence(d.TransformedDistribution({base}, [{one}]), "
            f"d.TransformedDistribution({base}, [{other}]))"
        )


X = "torch.tensor([-200.0, -20.0, 0.5, 20.0, 200.0])"


@pytest.mark.parametrize(
    "text",
    [
        f"d.SigmoidTransform()({X})",
        "d.SigmoidTransform().inv(torch.tensor([0.0, 0.3, 1.0]))",
        f"d.StickBreakingTransform()({X})",
        "d.StickBreakingTransform().inv(torch.tensor([0.5, 0.5, 0.0]))",
        "d.RelaxedBernoulli(torch.tensor(0.01), torch.tensor(0.3)).log_prob(torch.tensor([0.0, 0.3, 1.0]))",
        "d.ComposeTransform([d.AffineTransform(0.0, torch.tensor(-2.0)), d.ExpTransform()]).sign",
        "d.PowerTransform(torch.tensor(-1.0)).sign",
    ],
)  # fmt: skip
def test_a_map_is_pytorchs(text):
    compare(text)


def test_a_distribution_of_falling_maps_rises():
    for maps in (
        "[d.ComposeTransform([d.AffineTransform(0.0, torch.tensor(-2.0)), d.ExpTransform()])]",
        "[d.ExpTransform(), d.PowerTransform(torch.tensor(-1.0))]",
    ):
        for call in ("cdf", "icdf"):
            base = "d.Normal(torch.tensor(0.2), torch.tensor(1.0))"
            compare(f"d.TransformedDistribution({base}, {maps}).{call}(torch.tensor([0.2, 0.9]))")


@pytest.mark.parametrize(
    ("base", "maps", "value"),
    [
        ("d.Normal(torch.zeros(3, 6), 1.0)", "d.ReshapeTransform((6,), (2, 3))", "torch.ones(3, 2, 3)"),
        ("d.Normal(torch.zeros(3, 2, 3), 1.0)", "d.ReshapeTransform((2, 3), (6,))", "torch.ones(3, 6)"),
        (
            "d.Independent(d.Normal(torch.zeros(5, 6), 1.0), 2)",
            "d.ReshapeTransform((6,), (2, 3))",
            "torch.ones(5, 2, 3)",
        ),
        (
            "d.Normal(torch.zeros(4, 6), 1.0)",
            "d.ExpTransform(), d.ReshapeTransform((6,), (2, 3)), d.AffineTransform(1.0, 2.0)",
            "4 * torch.ones(4, 2, 3)",
        ),
        ("d.Normal(torch.tensor(0.0), 1.0)", "d.AffineTransform(torch.zeros(3), 2.0)", "torch.ones(3)"),
        ("d.Normal(torch.zeros(2, 4), 1.0)", "d.StickBreakingTransform()", "torch.ones(2, 5) / 5"),
        ("d.Gamma(torch.ones(2), 1.0)", "d.PowerTransform(torch.ones(3, 1))", "torch.ones(3, 2)"),
        ("d.Normal(torch.tensor(0.0), 1.0)", "d.StickBreakingTransform()", "torch.ones(2) / 2"),
    ],
)
def test_a_mapped_distribution_has_pytorchs_shapes(base, maps, value):
    made = f"d.TransformedDistribution({base}, [{maps}])"
    compare(f"({made}.batch_shape, {made}.event_shape, {made}.sample((7,)).shape)")
    compare(f"{made}.log_prob({value})")
    if "StickBreaking" not in maps or "zeros" in base:
        wide = f"{made}.expand((8, *{made}.batch_shape))"
        compare(f"({wide}.batch_shape, {wide}.sample().shape, {wide}.log_prob({value}).shape)")


def test_a_mixture_spreads_over_a_batch():
    parts = "d.Independent(d.Normal(torch.arange(6.0).reshape(3, 2), 1.0), 1)"
    made = f"d.MixtureSameFamily(d.Categorical(torch.tensor([0.2, 0.3, 0.5])), {parts}).expand((4,))"
    compare(f"({made}.batch_shape, {made}.event_shape, {made}.mean.shape, {made}.sample((7,)).shape)")
    compare(f"{made}.log_prob(torch.arange(8.0).reshape(4, 2))")
    compare(f"d.MixtureSameFamily(d.OneHotCategorical(torch.tensor([0.2, 0.8])), {parts})")


@pytest.mark.parametrize(
    "text",
    [
        "d.Geometric(torch.tensor(1.0)).log_prob(torch.tensor([0.0]))",
        "d.Geometric(torch.tensor(0.0))",
        "d.Uniform(2.0, 1.0)",
        "d.Uniform(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))",
        "d.NegativeBinomial(torch.tensor([0.0, 2.0]), torch.tensor(0.5)).log_prob(torch.tensor(0.0))",
        "d.Bernoulli(logits=torch.tensor(15.0)).log_prob(torch.tensor(1.0)) * 1e6",
        f"d.kl_divergence(d.Bernoulli({T}([0.0, 1.0, 0.3, 0.3])), d.Bernoulli({T}([0.4, 0.4, 0.0, 1.0])))",
        "d.constraints.symmetric.check(torch.tensor([[1.0, 1000.001], [1000.0, 1.0]]))",
        "d.constraints.symmetric.check(torch.tensor([[1.0, 1001.0], [1000.0, 1.0]]))",
        "d.Multinomial(3, torch.tensor([0.3, 0.7])).enumerate_support()",
        "d.Multinomial(3, torch.tensor([0.3, 0.7])).entropy()",
        "d.OneHotCategorical(torch.tensor([0.3, 0.7])).entropy()",
        "d.RelaxedOneHotCategorical(torch.tensor(1.0), torch.tensor([0.3, 0.7])).base_dist.entropy()",
    ],
)  # fmt: skip
def test_a_value_at_an_edge_is_pytorchs(text):
    compare(text)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_gradient_at_an_edge_is_pytorchs(p):
    def slope(torch):
        given = torch.tensor([p], requires_grad=True)
        d = torch.distributions
        d.kl_divergence(d.Bernoulli(given), d.Bernoulli(torch.tensor([0.4]))).sum().backward()
        return given.grad.numpy()

    np.testing.assert_allclose(slope(ours), slope(real), rtol=1e-5)
