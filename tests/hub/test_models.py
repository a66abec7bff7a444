"""Models of folders compute what the formulas of NumPy compute from the same files, and are written back."""

import json

import numpy as np
import pytest
from hub import folders, formulas
from safetensors.numpy import load_file, save_file

import distgrad as dg

IDS = np.array([[3, 7, 22, 0, 5, 11], [1, 2, 3, 9, 8, 4]])


def expect(kind, arrays, x):
    """The features of a batch, by NumPy."""
    config = folders.CONFIGS[kind]
    if kind == "bert":
        ones, zeros = np.ones_like(x), np.zeros_like(x)
        rows = zip(x, ones, zeros, strict=True)
        return np.stack([formulas.bert(arrays, config, *row) for row in rows])
    formula = formulas.llama if kind == "mistral" else getattr(formulas, kind)
    return np.stack([formula(arrays, config, row) for row in x])


def inputs(kind):
    if kind == "vit":
        return np.random.default_rng(2).standard_normal((2, 2, 6, 6), dtype=np.float32)
    return IDS


def values(parameter):
    return parameter.detach().numpy()


def compute(model, *inputs):
    with dg.no_grad():
        return model(*map(dg.asarray, inputs)).numpy()


@pytest.mark.parametrize("kind", folders.CONFIGS)
def test_features_are_the_formulas(kind, tmp_path):
    folder, arrays = folders.make(tmp_path, kind)
    model = dg.hub.load(folder)
    assert model.task == "features"
    assert not model.training
    got = compute(model, inputs(kind))
    np.testing.assert_allclose(got, expect(kind, arrays, inputs(kind)), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", folders.CONFIGS)
def test_what_is_saved_is_what_was_read(kind, tmp_path):
    folder, arrays = folders.make(tmp_path / "there", kind)
    dg.hub.save(dg.hub.load(folder), tmp_path / "back")
    again = load_file(tmp_path / "back" / "model.safetensors")
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert folders.CONFIGS[kind].items() <= config.items()
    assert config["architectures"] == [dg.hub.load(folder).architectures["features"]]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_the_next_token(kind, tied, tmp_path):
    arrays = folders.random_arrays(kind)
    prefix, table = folders.PREFIXES[kind], next(iter(arrays))
    stored = {prefix + name: array for name, array in arrays.items()}
    head = np.random.default_rng(3).standard_normal(arrays[table].shape, dtype=np.float32)
    names = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    config = {
        **folders.CONFIGS[kind], "architectures": [names[kind]], "tie_word_embeddings": tied,
    }  # fmt: skip
    folder = folders.write(tmp_path, config, stored | ({} if tied else {"lm_head.weight": head}))
    model = dg.hub.load(folder)
    assert model.task == "causal-lm"
    expected = expect(kind, arrays, IDS) @ (arrays[table] if tied else head).T
    np.testing.assert_allclose(compute(model, IDS), expected, rtol=5e-5, atol=5e-5)
    features = compute(dg.hub.load(folder, "features"), IDS)
    np.testing.assert_allclose(features, expect(kind, arrays, IDS), rtol=2e-5, atol=2e-5)


def test_a_classifier_of_bert(tmp_path):
    arrays = folders.random_arrays("bert")
    head = np.random.default_rng(3).standard_normal((4, 12), dtype=np.float32)
    stored = {f"bert.{name}": array for name, array in arrays.items()}
    stored |= {"classifier.weight": head, "classifier.bias": np.arange(4, dtype=np.float32)}
    config = {**folders.CONFIGS["bert"], "architectures": ["BertForSequenceClassification"]}
    folder = folders.write(tmp_path, {**config, "id2label": dict.fromkeys("0123", "x")}, stored)
    first = expect("bert", arrays, IDS)[:, 0]
    pooled = np.tanh(first @ arrays["pooler.dense.weight"].T + arrays["pooler.dense.bias"])
    got = compute(dg.hub.load(folder), IDS)
    np.testing.assert_allclose(got, pooled @ head.T + np.arange(4), rtol=2e-5, atol=2e-5)


def test_padding_is_not_looked_at(tmp_path):
    folder, arrays = folders.make(tmp_path, "bert")
    model, mask = dg.hub.load(folder), np.array([[1, 1, 1, 1, 0, 0], [1] * 6])
    kinds = np.array([[0, 0, 1, 1, 0, 0], [0] * 6])
    got = compute(model, IDS, mask, kinds)
    config = folders.CONFIGS["bert"]
    for row in range(2):
        expected = formulas.bert(arrays, config, IDS[row], mask[row], kinds[row])
        np.testing.assert_allclose(got[row], expected, rtol=2e-5, atol=2e-5)
    for kind in ("gpt2", "llama", "mistral"):
        model = dg.hub.load(folders.make(tmp_path / kind, kind)[0])
        got, alone = compute(model, IDS, mask), compute(model, IDS[:1, :4])
        np.testing.assert_allclose(got[:1, :4], alone, rtol=2e-5, atol=2e-5)


def test_a_shorter_sequence_is_pooled_by_its_mean():
    hidden = dg.asarray(np.arange(12.0).reshape(2, 3, 2))
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(dg.hub.mean_pool(hidden, mask).numpy(), [[1.0, 2.0], [0.0, 0.0]])
    with pytest.raises(dg.ShapeError, match=r"expected a mask \[2, 3\], got \[1, 3\]"):
        dg.hub.mean_pool(hidden, mask[:1])


def test_a_new_head_is_drawn_and_the_body_kept(tmp_path):
    folder, arrays = folders.make(tmp_path / "there", "bert")
    dg.manual_seed(0)
    model = dg.hub.load(folder, "classification", num_labels=5)
    assert compute(model, IDS).shape == (2, 5)
    np.testing.assert_array_equal(values(model.pooler.dense.weight), arrays["pooler.dense.weight"])
    assert 0 < model.classifier.weight.std().item() < 0.05
    dg.hub.save(model, tmp_path / "back")
    again = dg.hub.load(tmp_path / "back")
    assert again.task == "classification"
    np.testing.assert_array_equal(compute(again, IDS), compute(model, IDS))
    other = dg.hub.load(tmp_path / "back", num_labels=2)  # in place of five
    np.testing.assert_array_equal(values(other.tokens.weight), values(model.tokens.weight))
    assert compute(other, IDS).shape == (2, 2)


def test_several_files_with_an_index(tmp_path):
    model = dg.hub.load(folders.make(tmp_path / "one", "bert")[0])
    folder = tmp_path / "many"
    dg.hub.save(model, folder, max_file_bytes=3000)
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in model.parameters())
    np.testing.assert_array_equal(compute(dg.hub.load(folder), IDS), compute(model, IDS))
    dg.hub.save(model, folder)  # over it
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    dg.hub.save(model, folder, max_file_bytes=3000)
    assert not (folder / "model.safetensors").exists()
    np.testing.assert_array_equal(compute(dg.hub.load(folder), IDS), compute(model, IDS))


def test_names_of_older_files_and_what_nothing_needs(tmp_path):
    folder, arrays = folders.make(tmp_path, "bert")
    expected = compute(dg.hub.load(folder), IDS)
    gone = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, array in arrays.items():
        for today, then in gone.items():
            name = name.replace(today, then)
        old[f"bert.{name}"] = array
    old["bert.embeddings.position_ids"] = np.arange(9)[None]
    old["cls.seq_relationship.weight"] = np.zeros((2, 12), dtype=np.float32)
    folders.write(tmp_path, {**folders.CONFIGS["bert"], "architectures": ["BertForPreTraining"]}, old)
    with pytest.raises(dg.DataError, match=r"\['BertForPreTraining'\], no task of Bert; pass task="):
        dg.hub.load(folder)
    np.testing.assert_array_equal(compute(dg.hub.load(folder, "features"), IDS), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_become_float32(dtype, tmp_path):
    kind = getattr(dg, dtype)
    arrays = folders.random_arrays("bert", np.float32)
    folder = folders.write(
        tmp_path, folders.CONFIGS["bert"], {name: array.astype(kind) for name, array in arrays.items()}
    )
    model = dg.hub.load(folder)
    assert {p.dtype for p in model.parameters()} == {dg.float32}
    exact = arrays["pooler.dense.weight"].astype(kind).astype(np.float32)
    np.testing.assert_array_equal(values(model.pooler.dense.weight), exact)
    dg.hub.save(model.to(kind), tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == dtype
    np.testing.assert_array_equal(values(dg.hub.load(tmp_path / "back").pooler.dense.weight), exact)


def test_without_a_pooler_the_first_place_stands_for_the_whole(tmp_path):
    folder, arrays = folders.make(tmp_path, "vit")
    few = {name: array for name, array in arrays.items() if not name.startswith("pooler.")}
    save_file(few, folder / "model.safetensors")
    model = dg.hub.load(folder)
    hidden = model(dg.asarray(inputs("vit"))).detach()
    np.testing.assert_array_equal(model.pool(hidden).numpy(), hidden[:, 0].numpy())
    dg.hub.save(model, folder)
    assert load_file(folder / "model.safetensors").keys() == few.keys()


def test_gradients_reach_every_parameter(tmp_path):
    for kind, task in [("bert", "classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]:
        model = dg.hub.load(folders.make(tmp_path / kind, kind)[0], task).train()
        model(dg.asarray(IDS), dg.asarray(np.ones_like(IDS))).square().mean().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_nothing_is_left_beside_what_is_saved(tmp_path):
    folder, _ = folders.make(tmp_path / "there", "gpt2")
    dg.hub.save(dg.hub.load(folder), tmp_path / "a/b")
    names = sorted(path.name for path in (tmp_path / "a/b").iterdir())
    assert names == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_row_of_padding_is_not_trained(kind, tmp_path):
    model = dg.hub.load(folders.make(tmp_path, kind, pad_token_id=3)[0])
    model(dg.asarray(IDS)).square().sum().backward()
    slope = np.abs(values(model.tokens.weight.grad)).sum(axis=1)
    assert slope[3] == 0
    assert slope[7] > 0
