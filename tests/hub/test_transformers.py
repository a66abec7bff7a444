"""The same numbers as transformers', on small models that it makes itself; it loads what is written here."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import distgrad as dg

torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
transformers = pytest.importorskip("transformers", reason="comparison needs transformers installed")
pytestmark = pytest.mark.filterwarnings("default")  # theirs are theirs

TEXT = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 20, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 20, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
SHARED = {**TEXT, "num_key_value_heads": 2}
VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": (12, 18), "patch_size": 6,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
CASES = [
    ("BertModel", TEXT),
    ("BertForMaskedLM", {**TEXT, "hidden_act": "gelu_new"}),
    ("BertForSequenceClassification", {**TEXT, "num_labels": 3, "hidden_act": "relu"}),
    ("GPT2Model", GPT2),
    ("GPT2LMHeadModel", {**GPT2, "scale_attn_by_inverse_layer_idx": True, "n_inner": 40}),
    ("GPT2LMHeadModel", {**GPT2, "tie_word_embeddings": False, "scale_attn_weights": False}),
    ("LlamaModel", SHARED),
    ("LlamaForCausalLM", {**SHARED, "attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    ("LlamaForCausalLM", {**SHARED, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    ("LlamaForCausalLM", {**SHARED, "rope_parameters": LINEAR}),
    ("MistralForCausalLM", {**SHARED, "sliding_window": 3}),
    ("MistralForCausalLM", {**SHARED, "sliding_window": None}),
    ("Qwen2ForCausalLM", SHARED),
    ("ViTModel", {**VIT, "pooler_act": "relu", "pooler_output_size": 7}),
    ("ViTForImageClassification", {**VIT, "num_labels": 5, "qkv_bias": False, "num_channels": 1}),
]


def make(name, settings):
    """A model with weights large enough to tell what goes wrong."""
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def inputs(model):
    """What both take, and where rows of the result count."""
    rng = np.random.default_rng(0)
    if "ViT" in type(model).__name__:
        channels = model.config.num_channels
        return [rng.standard_normal((2, channels, 12, 18), dtype=np.float32)], 1.0
    ids, mask = rng.integers(0, 50, (2, 11)), np.ones((2, 11), dtype=np.int64)
    mask[1, 8:] = 0
    return [ids, mask], mask[..., None]


def theirs(model, inputs):
    with torch.no_grad():
        given, *mask = map(torch.tensor, inputs)
        out = model(given, **({"attention_mask": mask[0]} if mask else {}))
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state).numpy()


def ours(model, inputs):
    with dg.no_grad():
        return model(*map(dg.asarray, inputs)).numpy()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_equal_and_back(name, settings, tmp_path):
    model = make(name, settings)
    model.save_pretrained(tmp_path / "theirs")
    read = dg.hub.load(tmp_path / "theirs")
    given, real = inputs(model)
    expected, got = theirs(model, given), ours(read, given)
    real = real if got.ndim == 3 else 1.0
    np.testing.assert_allclose(got * real, expected * real, rtol=1e-4, atol=2e-5)
    dg.hub.save(read, tmp_path / "ours")
    again, notes = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes.values()), notes
    same = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in same)
    np.testing.assert_array_equal(theirs(again.eval(), given), expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BertForSequenceClassification", {**TEXT, "num_labels": 3}),
        ("BertForMaskedLM", TEXT),
        ("GPT2LMHeadModel", {**GPT2, "pad_token_id": 0}),
        ("LlamaForCausalLM", SHARED),
        ("ViTForImageClassification", {**VIT, "num_labels": 5}),
    ],
)
def test_gradients_are_theirs(name, settings, tmp_path):
    """Also that the row of padding has none."""
    model = make(name, settings)
    model.save_pretrained(tmp_path)
    read = dg.hub.load(tmp_path)
    (given, *mask), _ = inputs(model)
    if mask:
        given[:, 3] = 0
    logits = model(torch.tensor(given), **({"attention_mask": torch.tensor(mask[0])} if mask else {})).logits
    slope = np.random.default_rng(4).standard_normal(logits.shape, dtype=np.float32)
    if logits.ndim == 3:
        slope *= mask[0][..., None]
    (logits * torch.tensor(slope)).sum().backward()
    (read(dg.asarray(given), *map(dg.asarray, mask)) * slope).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    dg.optim.SGD(read.parameters(), lr=1.0).step()
    before = load_file(tmp_path / "model.safetensors")
    model.save_pretrained(tmp_path / "theirs")
    dg.hub.save(read, tmp_path / "ours")
    stepped = [load_file(tmp_path / whose / "model.safetensors") for whose in ("theirs", "ours")]
    for key in before:
        expected, got = (arrays[key] - before[key] for arrays in stepped)
        np.testing.assert_allclose(
            got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max() + 1e-5, err_msg=key
        )


def test_their_files_in_parts(tmp_path):
    model = make("LlamaForCausalLM", SHARED)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs/model.safetensors.index.json").exists()
    read = dg.hub.load(tmp_path / "theirs")
    given, _ = inputs(model)
    np.testing.assert_allclose(ours(read, given), theirs(model, given), rtol=1e-4, atol=2e-5)
    dg.hub.save(read, tmp_path / "ours", max_file_bytes=20_000)
    assert (tmp_path / "ours/model.safetensors.index.json").exists()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(theirs(again, given), theirs(model, given))


def test_settings_that_older_files_leave_out_have_their_values(tmp_path):
    """What a config does not say is what transformers takes it for: of every class, all but the sizes."""
    for name, settings in [(name, settings) for name, settings in CASES if "For" in name or "LM" in name]:
        model = make(name, settings)
        folder = tmp_path / "theirs"
        model.save_pretrained(folder)
        usual, said = type(model.config)().to_dict(), json.loads((folder / "config.json").read_text())
        kept = {key: value for key, value in said.items() if key not in usual or usual[key] != value}
        kept |= {"model_type": said["model_type"], "architectures": said["architectures"]}
        given, real = inputs(model)
        (folder / "config.json").write_text(json.dumps(kept))
        got, expected = ours(dg.hub.load(folder), given), theirs(model, given)
        real = real if got.ndim == 3 else 1.0
        np.testing.assert_allclose(got * real, expected * real, rtol=1e-4, atol=2e-5)


def test_a_head_made_here_is_loaded_there(tmp_path):
    make("BertModel", TEXT).save_pretrained(tmp_path / "theirs")
    read = dg.hub.load(tmp_path / "theirs", "classification", num_labels=4)
    dg.hub.save(read, tmp_path / "ours")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert again.config.num_labels == 4
    ids = np.arange(6)[None]
    np.testing.assert_allclose(ours(read, [ids]), theirs(again, [ids]), rtol=1e-4, atol=1e-5)


DECODERS = [
    ("GPT2LMHeadModel", {**GPT2, "pad_token_id": 0}),
    ("LlamaForCausalLM", {**SHARED, "eos_token_id": 2}),
    ("MistralForCausalLM", {**SHARED, "sliding_window": 3, "eos_token_id": [2, 7]}),
    ("Qwen2ForCausalLM", {**SHARED, "eos_token_id": 2}),
]


@pytest.mark.parametrize(("name", "settings"), DECODERS)
def test_texts_go_on_as_theirs(name, settings, tmp_path):
    """The likeliest tokens, also of texts with padding before them, to the end that the config names."""
    model = make(name, settings)
    model.save_pretrained(tmp_path)
    read = dg.hub.load(tmp_path)
    ids, mask = np.random.default_rng(1).integers(3, 50, (4, 6)), np.ones((4, 6), dtype=np.int64)
    mask[1, :2], mask[3, :5] = 0, 0
    expected = model.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=12, do_sample=False
    )
    np.testing.assert_array_equal(read.generate(ids, mask, max_new_tokens=12).numpy(), expected.numpy())


@pytest.mark.parametrize(("name", "settings"), [("BertModel", TEXT), *DECODERS])
def test_position_ids_are_theirs(name, settings, tmp_path):
    model = make(name, settings)
    model.save_pretrained(tmp_path)
    ids, places = np.arange(12).reshape(2, 6), np.array([[0, 0, 1, 2, 3, 4], [3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        out = model(torch.tensor(ids), position_ids=torch.tensor(places))
    expected = (out.logits if hasattr(out, "logits") else out.last_hidden_state).numpy()
    with dg.no_grad():
        got = dg.hub.load(tmp_path)(ids, position_ids=places).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)
