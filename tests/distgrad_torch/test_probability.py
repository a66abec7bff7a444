"""``torch.distributions``: densities, entropies and divergences against sums over a fine grid."""

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.gradcheck import gradcheck
from distgrad.errors import OptionError, ShapeError
from distgrad.torch import distributions as chances

# Parameters of two distributions of a kind, and a grid over their support: x = f(t), dx = f'(t) dt.
T = np.linspace(-40.0, 40.0, 8001)
REAL = (np.sinh(T[2000:6001] / 2), np.cosh(T[2000:6001] / 2) / 2)
POSITIVE = (np.exp(T), np.exp(T))
UNIT = (1 / (1 + np.exp(-T)), 1 / (2 + np.exp(-T) + np.exp(T)))
BETWEEN = (np.linspace(-0.5, 1.2, 8001), np.full(8001, 1.7 / 8000 / (T[1] - T[0])))
COUNTS = (np.arange(200.0), None)
CONTINUOUS = {
    "Normal": ((0.3, 1.2), (-0.2, 0.8), REAL), "Laplace": ((0.3, 1.2), (-0.2, 0.8), REAL),
    "Gumbel": ((0.3, 1.2), (-0.2, 0.9), REAL), "StudentT": ((5.0, 0.3, 1.2), None, REAL),
    "Cauchy": ((0.3, 0.2), (0.1, 0.3), REAL), "Exponential": ((1.3,), (0.7,), POSITIVE),
    "Gamma": ((1.7, 0.8), (2.2, 1.1), POSITIVE), "Chi2": ((3.0,), (4.0,), POSITIVE),
    "InverseGamma": ((3.5, 0.8), None, POSITIVE), "LogNormal": ((0.2, 0.5), (0.0, 0.8), POSITIVE),
    "HalfNormal": ((1.3,), (0.9,), POSITIVE), "HalfCauchy": ((0.3,), None, POSITIVE),
    "Weibull": ((1.2, 1.6), None, POSITIVE), "Beta": ((1.7, 2.4), (0.9, 1.3), UNIT),
    "RelaxedBernoulli": ((0.7, 0.4), None, UNIT), "Uniform": ((-0.5, 1.2), (-0.6, 2.0), BETWEEN),
}  # fmt: skip
DISCRETE = {
    "Bernoulli": ((0.3,), (0.6,), (np.arange(2.0), None)), "Geometric": ((0.3,), (0.5,), COUNTS),
    "Poisson": ((2.5,), (1.5,), COUNTS), "Binomial": ((7, 0.3), (7, 0.6), (np.arange(8.0), None)),
    "NegativeBinomial": ((2.5, 0.4), None, COUNTS),
}  # fmt: skip
SHARES = (0.1, 0.6, 0.3), (0.3, 0.3, 0.4)
ALL = {**CONTINUOUS, **DISCRETE}


def made(name, numbers):
    return getattr(chances, name)(*(dg.tensor(n, dtype=dg.float64) for n in numbers))


def total(values, grid):
    return values.sum() if grid[1] is None else (values * grid[1]).sum() * (T[1] - T[0])


def density(distribution, grid):
    with np.errstate(all="ignore"):
        return np.exp(np.nan_to_num(distribution.log_prob(dg.asarray(grid[0])).numpy(), nan=-math.inf))


@pytest.mark.parametrize("name", ALL)
def test_a_density_is_one_in_sum_and_has_the_moments_and_the_entropy_that_are_said(name):
    numbers, _, grid = ALL[name]
    p = made(name, numbers)
    chance = density(p, grid)
    np.testing.assert_allclose(total(chance, grid), 1.0, rtol=2e-3 if "Cauchy" in name else 1e-3)
    if "Cauchy" in name or name == "RelaxedBernoulli":  # without a mean, or without one in closed form
        return
    mean = total(chance * grid[0], grid)
    np.testing.assert_allclose(p.mean.item(), mean, rtol=1e-3)
    np.testing.assert_allclose(p.variance.item(), total(chance * (grid[0] - mean) ** 2, grid), rtol=5e-3)
    if "Negative" not in name and name != "Poisson":
        inside = np.where(chance > 0, chance, 1.0)
        np.testing.assert_allclose(p.entropy().item(), -total(chance * np.log(inside), grid), rtol=1e-3)


@pytest.mark.parametrize("name", [name for name, (_, other, _) in ALL.items() if other])
def test_a_divergence_is_the_sum_that_it_stands_for(name):
    numbers, others, grid = ALL[name]
    p, q = made(name, numbers), made(name, others)
    first, second = density(p, grid), density(q, grid)
    both = (first > 0) & (second > 0)
    ratio = np.divide(first, second, out=np.ones_like(first), where=both)
    expected = total(first * np.log(ratio), grid)
    np.testing.assert_allclose(chances.kl_divergence(p, q).item(), expected, rtol=5e-3, atol=1e-4)
    assert chances.kl_divergence(p, p).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_mean_and_gradients_come_through_them(name):
    numbers, _, _ = ALL[name]
    dg.manual_seed(3)
    parameters = [dg.tensor(float(n), dtype=dg.float64, requires_grad=True) for n in numbers]
    p = getattr(chances, name)(*parameters)
    x = p.sample((20000,))
    assert not x.requires_grad
    assert bool(dg.all(p.support.check(x)))
    if "Cauchy" not in name and name != "RelaxedBernoulli":
        far = abs(x.numpy().mean() - p.mean.item()) / math.sqrt(p.variance.item() / 20000)
        assert far < 5
    if not p.has_rsample or "Cauchy" in name or name == "RelaxedBernoulli":
        return
    p.rsample((20000,)).mean().backward()
    got = [each.grad.item() for each in parameters]
    for each in parameters:
        each.grad = None
    getattr(chances, name)(*parameters).mean.backward()
    expected = [0.0 if each.grad is None else each.grad.item() for each in parameters]
    np.testing.assert_allclose(got, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_log_prob_and_entropy(name):
    numbers, _, grid = ALL[name]
    x = dg.asarray(grid[0][[len(grid[0]) // 2 + 1]] if grid[1] is not None else np.array([1.0]))
    fixed = [float(n) for n in numbers] if name == "Binomial" else []
    parameters = [
        dg.tensor(float(n), dtype=dg.float64, requires_grad=True) for n in numbers[len(fixed[:1]) :]
    ]

    def log_prob(*given):
        return getattr(chances, name)(*fixed[:1], *given, validate_args=False).log_prob(x)

    assert gradcheck(log_prob, parameters)
    if name not in ("NegativeBinomial", "Poisson", "RelaxedBernoulli"):
        assert gradcheck(lambda *given: getattr(chances, name)(*fixed[:1], *given).entropy(), parameters)


@pytest.mark.parametrize(
    "name", ["Normal", "Laplace", "Cauchy", "Gumbel", "Exponential", "Uniform", "LogNormal"]
)
def test_a_quantile_undoes_the_distribution_function(name):
    p = made(name, ALL[name][0])
    chance = dg.asarray(np.array([0.1, 0.5, 0.8]))
    np.testing.assert_allclose(p.cdf(p.icdf(chance)).numpy(), chance.numpy(), rtol=1e-9)


def test_categories():
    p, q = (chances.Categorical(dg.tensor(each, dtype=dg.float64)) for each in SHARES)
    first, second = map(np.array, SHARES)
    np.testing.assert_allclose(p.log_prob(dg.arange(3)).numpy(), np.log(first), rtol=1e-12)
    np.testing.assert_allclose(p.entropy().item(), -(first * np.log(first)).sum(), rtol=1e-12)
    gap = (first * np.log(first / second)).sum()
    np.testing.assert_allclose(chances.kl_divergence(p, q).item(), gap, rtol=1e-12)
    dg.manual_seed(0)
    counts = np.bincount(p.sample((10000,)).numpy(), minlength=3) / 10000
    np.testing.assert_allclose(counts, first, atol=0.02)
    rows = chances.OneHotCategorical(logits=p.logits)
    assert rows.sample((4, 5)).shape == (4, 5, 3)
    np.testing.assert_allclose(rows.log_prob(dg.eye(3)).numpy(), np.log(first), rtol=1e-12)
    many = chances.Multinomial(4, dg.tensor(SHARES[0]))
    assert many.sample((6,)).sum(-1).tolist() == [4.0] * 6
    every = [(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)]
    odds = many.log_prob(dg.tensor(every, dtype=dg.float32)).exp()
    assert odds.sum().item() == pytest.approx(1.0, abs=1e-5)
    surprise = -(odds * odds.log()).sum().item()
    assert many.entropy().item() == pytest.approx(surprise, abs=1e-4)


def test_vectors():
    rng = np.random.default_rng(0)
    loc, other = rng.standard_normal((2, 3))
    a = rng.standard_normal((3, 3))
    covariance = a @ a.T + np.eye(3)
    p = chances.MultivariateNormal(dg.asarray(loc), dg.asarray(covariance))
    x = rng.standard_normal((5, 3))
    far = np.einsum("ni,ij,nj->n", x - loc, np.linalg.inv(covariance), x - loc)
    constant = 3 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(p.log_prob(dg.asarray(x)).numpy(), -0.5 * (far + constant), rtol=1e-9)
    np.testing.assert_allclose(p.entropy().item(), 0.5 * (constant + 3), rtol=1e-9)
    q = chances.MultivariateNormal(dg.asarray(other), precision_matrix=dg.asarray(np.eye(3) / 4.0))
    expected = 0.5 * (np.trace(covariance) / 4 + ((other - loc) ** 2).sum() / 4 - 3
                      + math.log(4.0**3) - np.linalg.slogdet(covariance)[1])  # fmt: skip
    np.testing.assert_allclose(chances.kl_divergence(p, q).item(), expected, rtol=1e-9)
    dg.manual_seed(1)
    np.testing.assert_allclose(np.cov(p.sample((20000,)).numpy().T), covariance, atol=0.3)
    shares = chances.Dirichlet(dg.tensor([1.5, 2.0, 0.7], dtype=dg.float64))
    drawn = shares.rsample((20000,)).numpy()
    np.testing.assert_allclose(drawn.mean(0), shares.mean.numpy(), atol=0.01)
    assert gradcheck(lambda c: chances.Dirichlet(c).log_prob(dg.asarray([0.2, 0.5, 0.3], dtype=dg.float64)),
                     [shares.concentration.requires_grad_()])  # fmt: skip


def test_distributions_made_of_others():
    base = chances.Normal(dg.zeros((2, 3)), dg.ones((2, 3)))
    joined = chances.Independent(base, 1)
    assert (joined.batch_shape, joined.event_shape) == ((2,), (3,))
    x = dg.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(joined.log_prob(x).numpy(), base.log_prob(x).numpy().sum(1), rtol=1e-6)
    squashed = chances.TransformedDistribution(base, [chances.TanhTransform(cache_size=1)])
    dg.manual_seed(0)
    y = squashed.rsample()
    slope = np.log1p(-(y.numpy().astype(np.float64) ** 2))
    expected = base.log_prob(y.atanh()).numpy() - slope
    np.testing.assert_allclose(squashed.log_prob(y).numpy(), expected, rtol=1e-3, atol=1e-3)
    mixed = chances.MixtureSameFamily(
        chances.Categorical(dg.tensor([0.25, 0.75])),
        chances.Normal(dg.tensor([-2.0, 1.0]), dg.tensor([1.0, 0.5])),
    )
    odds = np.exp(mixed.log_prob(dg.asarray(REAL[0], dtype=dg.float32)).numpy())
    assert total(odds, REAL) == pytest.approx(1.0, abs=1e-3)
    assert mixed.sample((4000,)).numpy().mean() == pytest.approx(mixed.mean.item(), abs=0.1)
    assert base.expand((5, 2, 3)).sample().shape == (5, 2, 3)
    soft = chances.RelaxedOneHotCategorical(0.5, logits=dg.zeros(4, requires_grad=True))
    assert soft.sample((7,)).sum(-1).numpy() == pytest.approx(np.ones(7), abs=1e-5)


def test_bad_parameters_and_values_are_errors():
    with pytest.raises(OptionError, match=r"Normal: expected parameter scale .* greater_than"):
        chances.Normal(0.0, -1.0)
    with pytest.raises(OptionError, match="Categorical: expected probs or logits, and not both"):
        chances.Categorical()
    with pytest.raises(OptionError, match="Bernoulli: expected values within Boolean"):
        chances.Bernoulli(0.5).log_prob(dg.tensor(0.3))
    with pytest.raises(ShapeError, match="does not broadcast"):
        chances.Normal(dg.zeros(3), dg.ones(3)).log_prob(dg.zeros(4))
    with pytest.raises(NotImplementedError, match="Normal to Categorical"):
        chances.kl_divergence(chances.Normal(0.0, 1.0), chances.Categorical(dg.ones(3)))
    with pytest.raises(TypeError, match="unexpected keyword 'sigma'"):
        chances.Normal(0.0, sigma=1.0)
    assert chances.Normal(0.0, -1.0, validate_args=False).scale.item() == -1.0


def test_a_seed_draws_the_same_numbers_again():
    for name in ALL:
        p = made(name, ALL[name][0])
        draws = []
        for _ in range(2):
            dg.manual_seed(11)
            draws.append(p.sample((9,)).tolist())
        assert draws[0] == draws[1]
