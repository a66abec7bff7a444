"""Texts that decoders go on with: from kept keys and values the same as from all places computed anew."""

import json

import numpy as np
import pytest
from hub import folders

import distgrad as dg
from distgrad.errors import DataError
from distgrad.hub.generation import Cache, Sampling

KINDS = ["gpt2", "llama", "mistral"]
IDS = np.array([[3, 7, 22], [1, 2, 9]])


def decoder(kind, tmp_path, **settings):
    """A decoder of random weights, large enough that tokens differ."""
    folder, _ = folders.make(tmp_path, kind, **settings)
    return dg.hub.load(folder, "causal-lm")


def greedy(model, ids, steps):
    """The likeliest tokens, by the whole row each time."""
    for _ in range(steps):
        with dg.no_grad():
            logits = model(dg.asarray(ids)).numpy()[:, -1]
        ids = np.concatenate([ids, logits.argmax(axis=1)[:, None]], axis=1)
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_likeliest_tokens(kind, use_cache, tmp_path):
    model = decoder(kind, tmp_path).train()
    got = model.generate(dg.asarray(IDS), max_new_tokens=6, use_cache=use_cache)
    assert model.training
    assert all(module.training for module in model.modules())
    np.testing.assert_array_equal(got.numpy(), greedy(model.eval(), IDS, 6))
    assert got.dtype == dg.int64


@pytest.mark.parametrize("kind", KINDS)
def test_kept_keys_give_the_features_of_the_whole(kind, tmp_path):
    model, ids = decoder(kind, tmp_path), np.array([[3, 7, 22, 0, 5, 11]])
    whole = model.encode(dg.asarray(ids)).detach().numpy()
    cache, parts = Cache(model.num_layers()), []
    for start, end in [(0, 2), (2, 5), (5, 6)]:
        parts.append(model.encode(dg.asarray(ids[:, start:end]), cache=cache).detach().numpy())
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=2e-5, atol=2e-5)
    assert cache.length == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_padded_text_goes_on_as_it_does_alone(kind, use_cache, tmp_path):
    model = decoder(kind, tmp_path)
    ids, mask = np.array([[0, 0, 5, 8], [1, 2, 9, 4]]), np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    got = model.generate(ids, mask, max_new_tokens=5, use_cache=use_cache).numpy()
    np.testing.assert_array_equal(got[:1, 2:], greedy(model, ids[:1, 2:], 5))
    np.testing.assert_array_equal(got[1:], greedy(model, ids[1:], 5))


def test_a_text_ends_at_its_last_token(tmp_path):
    model = decoder("llama", tmp_path)
    whole = greedy(model, IDS, 6)
    end = int(whole[0, 4])
    got = model.generate(IDS, max_new_tokens=6, eos_token_id=[end], pad_token_id=17).numpy()
    for row, expected in zip(got, whole, strict=True):
        new = expected[3:].tolist()
        stop = new.index(end) + 1 if end in new else len(new)
        assert row[3 : 3 + stop].tolist() == new[:stop]
        assert set(row[3 + stop :]) <= {17}
    alone = model.generate(IDS[:1], max_new_tokens=6, eos_token_id=end)
    assert alone.shape[1] == 3 + whole[0, 3:].tolist().index(end) + 1
    model.config.values["eos_token_id"] = [end]
    assert model.generate(IDS[:1], max_new_tokens=6).tolist() == alone.tolist()
    np.testing.assert_array_equal(model.generate(IDS, max_new_tokens=0).numpy(), IDS)


def test_a_file_of_generation_says_which_tokens_end_a_text(tmp_path):
    model = decoder("llama", tmp_path)
    whole = greedy(model, IDS, 6)
    end = int(whole[0, 4])
    model.config.values["eos_token_id"] = int(whole[0, 3])
    dg.hub.save(model, tmp_path / "saved")
    path = tmp_path / "saved/generation_config.json"
    assert not path.exists()
    path.write_text(json.dumps({"eos_token_id": [end], "pad_token_id": 17, "top_k": 3}))
    read = dg.hub.load(tmp_path / "saved")
    found = read.generate(IDS, max_new_tokens=6).tolist()
    assert found == model.generate(IDS, max_new_tokens=6, eos_token_id=end, pad_token_id=17).tolist()
    dg.hub.save(read, tmp_path / "again")
    assert json.loads((tmp_path / "again/generation_config.json").read_text())["top_k"] == 3
    dg.hub.save(model, tmp_path / "again")
    assert not (tmp_path / "again/generation_config.json").exists()
    for text, told in (("[]", "a JSON object"), ("{", "is no JSON")):
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            dg.hub.load(tmp_path / "saved")
    path.write_text('{"eos_token_id": "end"}')
    with pytest.raises(DataError, match="eos_token_id to be the number of a token, got 'end'"):
        dg.hub.load(tmp_path / "saved").generate(IDS)


def test_probabilities_of_what_is_drawn():
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]]))

    def probabilities(temperature=1.0, top_k=None, top_p=1.0):
        return Sampling(temperature, top_k, top_p, None).probabilities(logits)

    np.testing.assert_allclose(probabilities(), np.exp(logits))
    np.testing.assert_allclose(probabilities(0.5)[0], np.array([25, 4, 4, 1]) / 34)
    np.testing.assert_allclose(probabilities(top_k=1)[0], [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(top_k=99), np.exp(logits))
    np.testing.assert_allclose(probabilities(top_p=0.6), [[5 / 7, 2 / 7, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(probabilities(top_p=1e-9), [[1, 0, 0, 0], [0, 0, 0, 1]])


def test_drawn_tokens_follow_their_probabilities(tmp_path):
    model = decoder("gpt2", tmp_path)
    ids = np.repeat(IDS[:1], 4000, axis=0)
    drawn = model.generate(ids, max_new_tokens=1, do_sample=True, top_k=4, generator=dg.Generator(3)).numpy()
    with dg.no_grad():
        logits = model(dg.asarray(IDS[:1])).numpy()[:, -1]
    expected = Sampling(1.0, 4, 1.0, None).probabilities(logits)[0]
    counts = np.bincount(drawn[:, -1], minlength=len(expected))
    np.testing.assert_allclose(counts / 4000, expected, atol=4 * np.sqrt(0.25 / 4000))
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(expected))
    options = {"max_new_tokens": 5, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    dg.manual_seed(4)
    first = model.generate(IDS, **options).tolist()
    dg.manual_seed(4)
    assert model.generate(IDS, **options).tolist() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "pass do_sample=True"),
        ({"do_sample": True, "temperature": 0.0}, "temperature above 0"),
        ({"do_sample": True, "top_k": 0}, "top_k from 1"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p in \(0, 1\]"),
        ({"max_new_tokens": -1}, "max_new_tokens from 0 on"),
        ({"attention_mask": [[1, 1, 0], [1, 1, 1]]}, "a row ends with padding"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, tmp_path):
    with pytest.raises(dg.OptionError, match=message):
        decoder("gpt2", tmp_path).generate(IDS, **options)


def test_what_has_no_logits_or_no_places_is_refused(tmp_path):
    model = decoder("gpt2", tmp_path)
    with pytest.raises(dg.ShapeError, match="3 tokens and 7 new ones are more than the model's 9 places"):
        model.generate(IDS, max_new_tokens=7)
    with pytest.raises(dg.ShapeError, match=r"input_ids \[n, L\]"):
        model.generate(IDS[0])
    with pytest.raises(dg.OptionError, match="load the folder for 'causal-lm'"):
        dg.hub.load(tmp_path, "features").generate(IDS)


@pytest.mark.parametrize("kind", ["bert", *KINDS])
def test_position_ids(kind, tmp_path):
    folder, _ = folders.make(tmp_path, kind)
    model, ids = dg.hub.load(folder), dg.asarray(IDS)
    plain = model(ids)
    places = np.broadcast_to(np.arange(3), (2, 3))
    same = model(ids, position_ids=places)
    np.testing.assert_allclose(same.detach().numpy(), plain.detach().numpy(), rtol=1e-6, atol=1e-6)
    moved = model(ids, position_ids=places[:1] * 2).detach().numpy()
    assert np.abs(moved - plain.detach().numpy()).max() > 1e-3
    with pytest.raises(dg.ShapeError, match=r"expected position_ids \[2, 3\] for these tokens, got \[3\]"):
        model(ids, position_ids=places[0])
