"""Small folders of models, written with safetensors' own package under the names that transformers uses."""

import json

import numpy as np
from safetensors.numpy import save_file

TEXT = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 9,
}  # fmt: skip
CONFIGS = {
    "bert": {**TEXT, "model_type": "bert", "type_vocab_size": 2, "layer_norm_eps": 1e-12},
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 23, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 9,
        "layer_norm_epsilon": 1e-5,
    },
    "llama": {
        **TEXT, "model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6, "rope_theta": 100.0,
    },
    "mistral": {
        **TEXT, "model_type": "mistral", "hidden_size": 16, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 100.0, "sliding_window": 3,
    },
    "vit": {
        "model_type": "vit", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 20, "layer_norm_eps": 1e-12, "image_size": 6, "patch_size": 3, "num_channels": 2,
    },
}  # fmt: skip
PREFIXES = {"bert": "bert.", "gpt2": "transformer.", "llama": "model.", "mistral": "model.", "vit": "vit."}


def pair(name, out, inside):
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def encoder_layer(at, self_name, width, inner):
    """What BERT and ViT call alike."""
    return {
        **pair(f"{at}.attention.{self_name}.query", width, width),
        **pair(f"{at}.attention.{self_name}.key", width, width),
        **pair(f"{at}.attention.{self_name}.value", width, width),
        **pair(f"{at}.attention.output.dense", width, width),
        **pair(f"{at}.intermediate.dense", inner, width),
        **pair(f"{at}.output.dense", width, inner),
    }


def bert_shapes(c):
    width = c["hidden_size"]
    found = {
        "embeddings.word_embeddings.weight": (c["vocab_size"], width),
        "embeddings.position_embeddings.weight": (c["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (c["type_vocab_size"], width),
        **norm("embeddings.LayerNorm", width),
        **pair("pooler.dense", width, width),
    }
    for layer in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        found |= encoder_layer(at, "self", width, c["intermediate_size"])
        found |= norm(f"{at}.attention.output.LayerNorm", width) | norm(f"{at}.output.LayerNorm", width)
    return found


def gpt2_shapes(c):
    width = c["n_embd"]
    found = {"wte.weight": (c["vocab_size"], width), "wpe.weight": (c["n_positions"], width)}
    for layer in range(c["n_layer"]):
        at = f"h.{layer}"
        found |= norm(f"{at}.ln_1", width) | norm(f"{at}.ln_2", width)
        sizes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        sizes |= {"mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
        for name, (inside, out) in sizes.items():
            found |= {f"{at}.{name}.weight": (inside, out), f"{at}.{name}.bias": (out,)}
    return found | norm("ln_f", width)


def llama_shapes(c):
    width, inner = c["hidden_size"], c["intermediate_size"]
    shared = width // c["num_attention_heads"] * c["num_key_value_heads"]
    found = {"embed_tokens.weight": (c["vocab_size"], width), "norm.weight": (width,)}
    for layer in range(c["num_hidden_layers"]):
        at = f"layers.{layer}"
        sizes = {"self_attn.q_proj": (width, width), "self_attn.o_proj": (width, width)}
        sizes |= {"self_attn.k_proj": (shared, width), "self_attn.v_proj": (shared, width)}
        sizes |= {
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        sizes |= {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
        found |= {f"{at}.{name}.weight": size for name, size in sizes.items()}
    return found


def vit_shapes(c):
    width, size, channels = c["hidden_size"], c["patch_size"], c["num_channels"]
    found = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, (c["image_size"] // size) ** 2 + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, channels, size, size),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **norm("layernorm", width),
        **pair("pooler.dense", width, width),
    }
    for layer in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        found |= encoder_layer(at, "attention", width, c["intermediate_size"])
        found |= norm(f"{at}.layernorm_before", width) | norm(f"{at}.layernorm_after", width)
    return found


SHAPES = {
    "bert": bert_shapes, "gpt2": gpt2_shapes, "llama": llama_shapes, "mistral": llama_shapes,
    "vit": vit_shapes,
}  # fmt: skip


def random_arrays(kind, dtype=np.float32):
    """A model's arrays by their names in a file for features."""
    rng = np.random.default_rng(1)
    shapes = SHAPES[kind](CONFIGS[kind])
    return {
        name: (0.3 * rng.standard_normal(shape) + (len(shape) == 1 and name.endswith("weight"))).astype(dtype)
        for name, shape in shapes.items()
    }


def write(folder, config, arrays):
    """A folder with one file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    return folder


def make(folder, kind, **settings):
    """A folder for features, and its arrays."""
    arrays = random_arrays(kind)
    return write(folder, {**CONFIGS[kind], **settings}, arrays), arrays
