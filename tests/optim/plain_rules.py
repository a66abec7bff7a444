"""Every optimizer's published rule, written out once more, a parameter at a time, in float64.

``rule(p, grads, options)`` returns the parameter after all the gradients. Nothing of distgrad is used.
"""

import numpy as np

__all__ = ["PLAIN"]


def _ascent(p, g, o):
    """The gradient to go down by, with the coupled weight decay."""
    g = -g if o.get("maximize") else g
    return g if o.get("decoupled_weight_decay") else g + o.get("weight_decay", 0.0) * p


def _shrunk(p, o, decay):
    return p - o["lr"] * decay * p


def sgd(p, grads, o):
    b = None
    momentum = o.get("momentum", 0.0)
    for raw in grads:
        g = _ascent(p, raw, o)
        if momentum:
            b = g if b is None else momentum * b + (1 - o.get("dampening", 0.0)) * g
            g = g + momentum * b if o.get("nesterov") else b
        p = p - o["lr"] * g
    return p


def adam(p, grads, o, default_decay=0.0):
    (b1, b2), eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8)
    m, v, top = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, raw in enumerate(grads, 1):
        g = _ascent(p, raw, o)
        if o.get("decoupled_weight_decay"):
            p = _shrunk(p, o, o.get("weight_decay", default_decay))
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        top = np.maximum(top, v)
        second = (top if o.get("amsgrad") else v) / (1 - b2**t)
        p = p - o["lr"] * (m / (1 - b1**t)) / (np.sqrt(second) + eps)
    return p


def sparse_adam(p, grads, o):
    (b1, b2), eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8)
    p = p.copy()
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, raw in enumerate(grads, 1):
        for row in range(len(p)) if p.ndim else [()]:
            g = _ascent(p[row], raw[row], o)
            if np.any(g):
                m[row] = b1 * m[row] + (1 - b1) * g
                v[row] = b2 * v[row] + (1 - b2) * g**2
                rate = o["lr"] / (1 - b1**t) * np.sqrt(1 - b2**t)
                p[row] -= rate * m[row] / (np.sqrt(v[row]) + eps)
    return p


def adamw(p, grads, o):
    return adam(p, grads, {**o, "decoupled_weight_decay": True}, default_decay=1e-2)


def rmsprop(p, grads, o):
    a, eps, momentum = o.get("alpha", 0.99), o.get("eps", 1e-8), o.get("momentum", 0.0)
    v, m, b = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for raw in grads:
        g = _ascent(p, raw, o)
        v = a * v + (1 - a) * g**2
        m = a * m + (1 - a) * g
        change = g / (np.sqrt(v - m**2 if o.get("centered") else v) + eps)
        b = momentum * b + change
        p = p - o["lr"] * b
    return p


def adagrad(p, grads, o):
    s = np.full_like(p, o.get("initial_accumulator_value", 0.0))
    for t, raw in enumerate(grads, 1):
        g = _ascent(p, raw, o)
        s = s + g**2
        p = p - o["lr"] / (1 + (t - 1) * o.get("lr_decay", 0.0)) * g / (np.sqrt(s) + o.get("eps", 1e-10))
    return p


def adadelta(p, grads, o):
    rho, eps = o.get("rho", 0.9), o.get("eps", 1e-6)
    v, d = np.zeros_like(p), np.zeros_like(p)
    for raw in grads:
        g = _ascent(p, raw, o)
        v = rho * v + (1 - rho) * g**2
        change = np.sqrt(d + eps) / np.sqrt(v + eps) * g
        d = rho * d + (1 - rho) * change**2
        p = p - o["lr"] * change
    return p


def adamax(p, grads, o):
    (b1, b2), eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8)
    m, u = np.zeros_like(p), np.zeros_like(p)
    for t, raw in enumerate(grads, 1):
        g = _ascent(p, raw, o)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, abs(g) + eps)
        p = p - o["lr"] / (1 - b1**t) * m / u
    return p


def nadam(p, grads, o):
    (b1, b2), eps, psi = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8), o.get("momentum_decay", 4e-3)
    m, v, product = np.zeros_like(p), np.zeros_like(p), 1.0
    for t, raw in enumerate(grads, 1):
        g = _ascent(p, raw, o)
        if o.get("decoupled_weight_decay"):
            p = _shrunk(p, o, o["weight_decay"])
        now, coming = (b1 * (1 - 0.5 * 0.96 ** (k * psi)) for k in (t, t + 1))
        product *= now
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = coming * m / (1 - product * coming) + (1 - now) * g / (1 - product)
        p = p - o["lr"] * ahead / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


def radam(p, grads, o):
    (b1, b2), eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-8)
    m, v = np.zeros_like(p), np.zeros_like(p)
    longest = 2 / (1 - b2) - 1
    for t, raw in enumerate(grads, 1):
        g = _ascent(p, raw, o)
        if o.get("decoupled_weight_decay"):
            p = _shrunk(p, o, o["weight_decay"])
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        mean, length = m / (1 - b1**t), longest - 2 * t * b2**t / (1 - b2**t)
        if length > 5:
            part = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            mean = mean * np.sqrt(part) * np.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
        p = p - o["lr"] * mean
    return p


def rprop(p, grads, o):
    (shrink, grow), (least, most) = o.get("etas", (0.5, 1.2)), o.get("step_sizes", (1e-6, 50.0))
    size, before = np.full_like(p, o["lr"]), np.zeros_like(p)
    for raw in grads:
        g = _ascent(p, raw, o)
        turn = np.sign(g * before)
        size = np.clip(size * np.select([turn > 0, turn < 0], [grow, shrink], 1.0), least, most)
        before = np.where(turn < 0, 0.0, g)
        p = p - np.sign(before) * size
    return p


def asgd(p, grads, o):
    """The parameter and, on the last axis, its average."""
    lambd = o.get("lambd", 1e-4)
    average = np.zeros_like(p)
    for t, raw in enumerate(grads):
        g = _ascent(p, raw, o)
        rate = o["lr"] / (1 + lambd * o["lr"] * t) ** o.get("alpha", 0.75)
        p = p - lambd * rate * p - rate * g
        average = average + (p - average) / max(1.0, t - o.get("t0", 1e6))
    return np.stack([p, average], axis=-1)


def lion(p, grads, o):
    b1, b2 = o.get("betas", (0.9, 0.99))
    m = np.zeros_like(p)
    for raw in grads:
        g = -raw if o.get("maximize") else raw
        p = p - o["lr"] * (np.sign(b1 * m + (1 - b1) * g) + o.get("weight_decay", 0.0) * p)
        m = b2 * m + (1 - b2) * g
    return p


def lamb(p, grads, o):
    (b1, b2), eps = o.get("betas", (0.9, 0.999)), o.get("eps", 1e-6)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, raw in enumerate(grads, 1):
        g = -raw if o.get("maximize") else raw
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + o.get("weight_decay", 0.01) * p
        sizes = np.linalg.norm(np.ravel(p)), np.linalg.norm(np.ravel(u))
        p = p - o["lr"] * (sizes[0] / sizes[1] if all(sizes) else 1.0) * u
    return p


def lars(p, grads, o):
    decay = o.get("weight_decay", 0.0)
    b = np.zeros_like(p)
    for raw in grads:
        g = -raw if o.get("maximize") else raw
        sizes = np.linalg.norm(np.ravel(p)), np.linalg.norm(np.ravel(g))
        trust = (
            o.get("trust_coefficient", 1e-3) * sizes[0] / (sizes[1] + decay * sizes[0] + o.get("eps", 1e-8))
        )
        b = o.get("momentum", 0.9) * b + o["lr"] * (trust if all(sizes) else 1.0) * (g + decay * p)
        p = p - b
    return p


def adafactor(p, grads, o):
    tiny, smallest = o.get("eps", (None, 1e-3))
    tiny = np.finfo(p.dtype).eps if tiny is None else tiny
    rms = lambda x: np.sqrt(np.mean(x**2))  # noqa: E731
    row = column = v = 0.0
    for t, raw in enumerate(grads, 1):
        g = -raw if o.get("maximize") else raw
        kept = 1 - t ** o.get("beta2_decay", -0.8)
        rate = min(o["lr"], 1 / np.sqrt(t)) * max(smallest, rms(p))
        p = _shrunk(p, o, o.get("weight_decay", 0.0))
        if p.ndim > 1:
            row = kept * row + (1 - kept) * (g**2).mean(-1)
            column = kept * column + (1 - kept) * (g**2).mean(-2)
            v = row[..., :, None] * column[..., None, :] / np.maximum(row.mean(-1), tiny)[..., None, None]
        else:
            v = kept * v + (1 - kept) * g**2
        u = g / np.sqrt(np.maximum(v, tiny**2))
        p = p - rate * u / max(1.0, rms(u) / o.get("d", 1.0))
    return p


def muon(p, grads, o):
    a, b, c = o.get("ns_coefficients", (3.4445, -4.775, 2.0315))
    momentum = o.get("momentum", 0.95)
    moving = np.zeros_like(p)
    for g in grads:
        moving = momentum * moving + (1 - momentum) * g
        x = momentum * moving + (1 - momentum) * g if o.get("nesterov", True) else moving
        left, sizes, right = np.linalg.svd(x, full_matrices=False)
        sizes = sizes / max(np.linalg.norm(x), o.get("eps", 1e-7))
        for _ in range(o.get("ns_steps", 5)):
            sizes = a * sizes + b * sizes**3 + c * sizes**5  # the iteration leaves the singular vectors
        scale = np.sqrt(max(1.0, p.shape[0] / p.shape[1]))
        if o.get("adjust_lr_fn") == "match_rms_adamw":
            scale = 0.2 * np.sqrt(max(p.shape))
        if o.get("adjust_lr_fn") == "spectral_unclamped":
            scale = np.sqrt(p.shape[0] / p.shape[1])
        p = _shrunk(p, o, o.get("weight_decay", 0.1)) - o["lr"] * scale * (left * sizes) @ right
    return p


PLAIN = {
    "SGD": sgd, "Adam": adam, "AdamW": adamw, "RMSprop": rmsprop, "Adagrad": adagrad, "Adadelta": adadelta,
    "Adamax": adamax, "NAdam": nadam, "RAdam": radam, "Rprop": rprop, "ASGD": asgd, "Lion": lion,
    "LAMB": lamb, "LARS": lars, "Adafactor": adafactor, "Muon": muon, "SparseAdam": sparse_adam,
}  # fmt: skip
