"""What cannot be read is said, with its place and what to do."""

import json
import pickle

import numpy as np
import pytest
from hub import folders
from safetensors.numpy import save_file

import distgrad as dg


def refuse(error, pattern, folder, *args, **options):
    with pytest.raises(error, match=pattern):
        dg.hub.load(folder, *args, **options)


CONFIGS = [
    ({"model_type": "t5"}, "model_type is 't5'; distgrad.hub reads bert, gpt2, llama, mistral, qwen2, vit"),
    ({"model_type": None}, "expected model_type to be a text, got none"),
    ({"hidden_size": "12"}, "expected hidden_size to be a count, got '12'"),
    ({"hidden_size": True}, "expected hidden_size to be a count, got True"),
    ({"num_hidden_layers": 0}, "expected num_hidden_layers to be a count, got 0"),
    ({"hidden_dropout_prob": -1}, "expected hidden_dropout_prob to be a number of at least 0, got -1"),
    ({"hidden_act": "maxout"}, "expected hidden_act to be one of .*'gelu'.*, got 'maxout'"),
    (
        {"position_embedding_type": "relative_key"},
        "is 'relative_key', of which distgrad.hub computes 'absolute'",
    ),
    ({"num_attention_heads": 5}, "12 features, 5 heads and 5 of keys do not divide"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ({"is_decoder": True}, "is_decoder is set"),
]


@pytest.mark.parametrize(("changed", "pattern"), CONFIGS)
def test_a_config_that_is_not_computed(changed, pattern, tmp_path):
    folder, _ = folders.make(tmp_path, "bert", **changed)
    refuse(dg.DataError, pattern, folder)


ROTATIONS = [
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ({"rope_parameters": [1]}, "expected rope_parameters to be an object"),
    ({"rope_scaling": {"type": "linear"}}, "expected factor to be a number of at least 0, got none"),
    ({"head_dim": 5}, "heads of 5 features cannot be turned"),
]


@pytest.mark.parametrize(("changed", "pattern"), ROTATIONS)
def test_positions_that_are_not_computed(changed, pattern, tmp_path):
    folder, _ = folders.make(tmp_path, "llama", **changed)
    refuse(dg.DataError, pattern, folder)


@pytest.mark.parametrize("text", ["{", "[]", "", "[" * 100000])
def test_a_config_that_is_none(text, tmp_path):
    folder, _ = folders.make(tmp_path, "bert")
    (folder / "config.json").write_text(text)
    refuse(dg.DataError, "config.json (is no JSON|to hold a JSON object)", folder)


def test_files_that_are_missing(tmp_path):
    refuse(dg.DataError, "cannot read .*config.json: No such file", tmp_path / "nowhere")
    folder, _ = folders.make(tmp_path, "bert")
    (folder / "model.safetensors").unlink()
    refuse(dg.DataError, "expected model.safetensors or model.safetensors.index.json", folder)


def test_a_pickle_is_refused(tmp_path):
    folder, _ = folders.make(tmp_path, "bert")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    refuse(dg.DataError, r"a pickle \(pytorch_model.bin\), which can run any program", folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    refuse(dg.DataError, "expected .*model.safetensors to be a safetensors file", folder)


def test_a_truncated_file(tmp_path):
    folder, _ = folders.make(tmp_path, "bert")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refuse(dg.DataError, "truncated or no safetensors file", folder)


def test_all_that_does_not_fit_is_listed(tmp_path):
    folder, arrays = folders.make(tmp_path, "gpt2")
    del arrays["ln_f.bias"]
    arrays["h.1.attn.c_attn.weight"] = arrays["h.1.attn.c_attn.weight"].T.copy()
    arrays["h.2.ln_1.weight"] = np.ones(12, dtype=np.float32)
    arrays["wte.weight"] = arrays["wte.weight"].astype(np.int8)
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(dg.StateDictError) as caught:
        dg.hub.load(folder)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("do not fit GPT2, task 'features':")
    assert sorted(line.strip() for line in lines) == [
        "h.1.attn.c_attn.weight is [36, 12], expected [12, 36]",
        "missing ln_f.bias",
        "unexpected h.2.ln_1.weight [12]",
        "wte.weight is int8, expected floats of 16 bits or more",
    ]


def test_an_array_that_the_config_has_no_place_for(tmp_path):
    folder, arrays = folders.make(tmp_path, "llama")  # attention_bias is false
    arrays["layers.0.self_attn.q_proj.bias"] = np.ones(16, dtype=np.float32)
    save_file(arrays, folder / "model.safetensors")
    refuse(dg.StateDictError, r"unexpected layers.0.self_attn.q_proj.bias \[16\]", folder)


def test_a_head_that_the_file_should_have(tmp_path):
    folder, _ = folders.make(tmp_path, "vit", architectures=["ViTForImageClassification"])
    refuse(dg.StateDictError, "missing classifier.weight", folder)
    refuse(
        dg.OptionError,
        r"ViT has the tasks \['classification', 'features'\], got 'causal-lm'",
        folder,
        "causal-lm",
    )
    refuse(dg.OptionError, "num_labels must be a whole number from 1, got 0", folder, num_labels=0)


INDICES = [
    ("{}", "does not say which file has what: KeyError"),
    ('{"weight_map": {"a": "../x.safetensors"}}', "'../x.safetensors', which is no file beside it"),
    ('{"weight_map": {"a": 3}}', "does not say which file has what: TypeError"),
    ('{"weight_map": {"a": "x.safetensors"}}', "cannot read .*x.safetensors"),
    (
        '{"weight_map": {"a": "part.safetensors"}}',
        "part.safetensors lacks a, which model.safetensors.index.json",
    ),
]


@pytest.mark.parametrize(("text", "pattern"), INDICES)
def test_an_index_that_is_wrong(text, pattern, tmp_path):
    folder, _ = folders.make(tmp_path, "bert")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)
    refuse(dg.DataError, pattern, folder)


def test_inputs_of_the_wrong_shape(tmp_path):
    bert = dg.hub.load(folders.make(tmp_path / "bert", "bert")[0])
    with pytest.raises(dg.ShapeError, match="10 tokens in a row, but the model has 9 places"):
        bert(dg.zeros((1, 10), dtype=dg.int64))
    with pytest.raises(dg.ShapeError, match=r"expected an attention_mask \[1, 4\] .*got \[4\]"):
        bert(dg.zeros((1, 4), dtype=dg.int64), dg.ones(4))
    vit = dg.hub.load(folders.make(tmp_path / "vit", "vit")[0])
    with pytest.raises(dg.ShapeError, match=r"pictures \[n, 2, 6, 6\], got \[1, 2, 8, 8\]"):
        vit(dg.zeros((1, 2, 8, 8)))


def test_what_is_no_model_is_not_saved(tmp_path):
    with pytest.raises(dg.DTypeError, match=r"got Linear; dg.save writes the state of any module"):
        dg.hub.save(dg.nn.Linear(2, 2), tmp_path / "x")
    model = dg.hub.load(folders.make(tmp_path / "bert", "bert")[0])
    with pytest.raises(dg.DTypeError, match=r"got DistributedDataParallel; pass its .module"):
        dg.hub.save(dg.parallel.DistributedDataParallel(model), tmp_path / "x")
    with pytest.raises(dg.OptionError, match="max_file_bytes must be a count of bytes from 1, got 0"):
        dg.hub.save(model, tmp_path / "y", max_file_bytes=0)
    assert not (tmp_path / "x").exists()


def test_a_write_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    folder, _ = folders.make(tmp_path, "bert")
    model = dg.hub.load(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        dg.hub.save(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert json.loads((folder / "config.json").read_text()) == folders.CONFIGS["bert"]
