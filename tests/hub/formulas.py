"""The four architectures as formulas of NumPy on the arrays of a file, under the file's names, in float64."""

import math

import numpy as np


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def layer_norm(x, weight, bias, eps):
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def rms_norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def attend(query, key, value, visible):
    """One sequence, one head at a time: queries ``[H, L, E]``; ``visible[i, j]``: i looks at j."""
    shared = len(query) // len(key)
    outputs = []
    for head, q in enumerate(query):
        scores = q @ key[head // shared].T / math.sqrt(q.shape[-1])
        outputs.append(softmax(np.where(visible, scores, -1e30)) @ value[head // shared])
    return np.concatenate(outputs, axis=-1)


def heads(x, width):
    return x.reshape(len(x), -1, width).transpose(1, 0, 2)


class Arrays:
    """A file's arrays in float64, and layers made of them."""

    def __init__(self, arrays):
        self.arrays = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}

    def __getitem__(self, name):
        return self.arrays[name]

    def linear(self, x, name):
        return x @ self[f"{name}.weight"].T + self.arrays.get(f"{name}.bias", 0.0)

    def conv1d(self, x, name):
        return x @ self[f"{name}.weight"] + self[f"{name}.bias"]

    def norm(self, x, name, eps):
        return layer_norm(x, self[f"{name}.weight"], self[f"{name}.bias"], eps)


def bert(arrays, config, ids, mask, kinds):
    """Hidden features of one text ``[L]``; names without a prefix."""
    a, eps = Arrays(arrays), config["layer_norm_eps"]
    width = config["hidden_size"] // config["num_attention_heads"]
    x = a["embeddings.word_embeddings.weight"][ids]
    x = x + a["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + a["embeddings.token_type_embeddings.weight"][kinds]
    x = a.norm(x, "embeddings.LayerNorm", eps)
    visible = np.broadcast_to(mask.astype(bool), (len(ids), len(ids)))
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            heads(a.linear(x, f"{at}.attention.self.{name}"), width) for name in ("query", "key", "value")
        )
        y = a.linear(attend(q, k, v, visible), f"{at}.attention.output.dense")
        x = a.norm(x + y, f"{at}.attention.output.LayerNorm", eps)
        y = a.linear(gelu(a.linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = a.norm(x + y, f"{at}.output.LayerNorm", eps)
    return x


def gpt2(arrays, config, ids):
    """Hidden features of one text ``[L]``."""
    a, eps = Arrays(arrays), config["layer_norm_epsilon"]
    width = config["n_embd"] // config["n_head"]
    x = a["wte.weight"][ids] + a["wpe.weight"][: len(ids)]
    for layer in range(config["n_layer"]):
        joined = a.conv1d(a.norm(x, f"h.{layer}.ln_1", eps), f"h.{layer}.attn.c_attn")
        q, k, v = (heads(part, width) for part in np.split(joined, 3, axis=-1))
        y = attend(q, k, v, np.tri(len(ids), dtype=bool))
        x = x + a.conv1d(y, f"h.{layer}.attn.c_proj")
        y = gelu_tanh(a.conv1d(a.norm(x, f"h.{layer}.ln_2", eps), f"h.{layer}.mlp.c_fc"))
        x = x + a.conv1d(y, f"h.{layer}.mlp.c_proj")
    return a.norm(x, "ln_f", eps)


def turned(x, theta):
    """Rotary positions by complex numbers: features i and i + E/2 are one."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[-2])[:, None] * theta ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=-1)


def llama(arrays, config, ids):
    """Hidden features of one text ``[L]``."""
    a, eps, theta = Arrays(arrays), config["rms_norm_eps"], config["rope_theta"]
    width = config["hidden_size"] // config["num_attention_heads"]
    back = np.arange(len(ids))[:, None] - np.arange(len(ids))
    visible = (back >= 0) & (back < (config.get("sliding_window") or len(ids)))
    x = a["embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}"
        y = rms_norm(x, a[f"{at}.input_layernorm.weight"], eps)
        q, k, v = (heads(a.linear(y, f"{at}.self_attn.{name}_proj"), width) for name in "qkv")
        y = attend(turned(q, theta), turned(k, theta), v, visible)
        x = x + a.linear(y, f"{at}.self_attn.o_proj")
        y = rms_norm(x, a[f"{at}.post_attention_layernorm.weight"], eps)
        y = silu(a.linear(y, f"{at}.mlp.gate_proj")) * a.linear(y, f"{at}.mlp.up_proj")
        x = x + a.linear(y, f"{at}.mlp.down_proj")
    return rms_norm(x, a["norm.weight"], eps)


def vit(arrays, config, picture):
    """Hidden features of one picture ``[channels, height, width]``."""
    a, eps, size = Arrays(arrays), config["layer_norm_eps"], config["patch_size"]
    width = config["hidden_size"] // config["num_attention_heads"]
    kernel = a["embeddings.patch_embeddings.projection.weight"]
    bias = a["embeddings.patch_embeddings.projection.bias"]
    rows, columns = (length // size for length in picture.shape[1:])
    patches = [
        (kernel * picture[:, i * size : (i + 1) * size, j * size : (j + 1) * size]).sum(axis=(1, 2, 3)) + bias
        for i in range(rows)
        for j in range(columns)
    ]
    x = np.concatenate([a["embeddings.cls_token"][0], patches]) + a["embeddings.position_embeddings"][0]
    everything = np.ones((len(x), len(x)), dtype=bool)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        y = a.norm(x, f"{at}.layernorm_before", eps)
        q, k, v = (
            heads(a.linear(y, f"{at}.attention.attention.{name}"), width)
            for name in ("query", "key", "value")
        )
        x = x + a.linear(attend(q, k, v, everything), f"{at}.attention.output.dense")
        y = gelu(a.linear(a.norm(x, f"{at}.layernorm_after", eps), f"{at}.intermediate.dense"))
        x = x + a.linear(y, f"{at}.output.dense")
    return a.norm(x, "layernorm", eps)
