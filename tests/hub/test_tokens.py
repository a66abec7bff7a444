"""Tokenizers of folders: what they pad, cut and refuse."""

import json
import sys

import numpy as np
import pytest

import distgrad as dg

tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "rank", "waits", "##ing", "wait"]


def make(folder, **settings):
    """A folder with a ``tokenizer.json`` that pads to 16 tokens, as some on the hub do."""
    made = tokenizers.BertWordPieceTokenizer({word: number for number, word in enumerate(WORDS)})
    made.enable_padding(length=16)
    made.enable_truncation(3)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_batch_is_as_long_as_its_longest_text(tmp_path):
    found = dg.hub.tokenizer(make(tmp_path))
    tokens = dg.hub.tokenize(found, ["A rank waiting", "a"])
    expected = [[2, 5, 6, 9, 8, 3], [2, 5, 3, 0, 0, 0]]
    np.testing.assert_array_equal(tokens.input_ids.numpy(), expected)
    np.testing.assert_array_equal(tokens.attention_mask.numpy(), [[1] * 6, [1, 1, 1, 0, 0, 0]])
    assert tokens.token_type_ids.dtype == tokens.input_ids.dtype == dg.int64
    assert found.decode(expected[0]) == "a rank waiting"
    pairs = dg.hub.tokenize(found, [("a", "rank"), ("a", "a rank")])
    np.testing.assert_array_equal(pairs.token_type_ids.numpy(), [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]])


def test_a_text_is_cut_to_what_the_model_takes(tmp_path):
    text = "a rank waits " * 50

    def length(**options):
        return dg.hub.tokenize(dg.hub.tokenizer(tmp_path, **options), [text]).input_ids.shape[1]

    make(tmp_path, model_max_length=10**30)
    assert length() == 152
    assert length(max_length=7) == 7
    make(tmp_path, model_max_length=40)
    assert length() == 40
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 20}')
    assert length() == 20


def test_a_padding_token_of_another_name(tmp_path):
    make(tmp_path, pad_token={"content": "[MASK]"})
    tokens = dg.hub.tokenize(dg.hub.tokenizer(tmp_path), ["a rank", "a"])
    assert tokens.input_ids[1, 3].item() == 4


def test_folders_with_word_lists_alone(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    tokens = dg.hub.tokenize(dg.hub.tokenizer(tmp_path), ["A rank"])
    np.testing.assert_array_equal(tokens.input_ids.numpy(), [[2, 5, 6, 3]])
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokens = dg.hub.tokenize(dg.hub.tokenizer(tmp_path), ["aba", "ab"])
    np.testing.assert_array_equal(tokens.input_ids.numpy(), [[2, 0], [2, 0]])
    np.testing.assert_array_equal(tokens.attention_mask.numpy(), [[1, 1], [1, 0]])


def test_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    with pytest.raises(dg.DataError, match=r"expected tokenizer.json, vocab.txt, .* found none"):
        dg.hub.tokenizer(tmp_path)
    found = dg.hub.tokenizer(make(tmp_path))
    for texts in ("a rank", []):
        with pytest.raises(dg.DataError, match="expected a list of texts, got"):
            dg.hub.tokenize(found, texts)
    with pytest.raises(dg.DataError, match="expected texts, or pairs of texts"):
        dg.hub.tokenize(found, [3])
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(dg.DataError, match=r"tokenizer_config\.json is no JSON"):
        dg.hub.tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(dg.DataError, match=r"the tokenizer in .* cannot be read"):
        dg.hub.tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(dg.MissingDependencyError, match=r"pip install 'distgrad\[hub\]'"):
        dg.hub.tokenizer(tmp_path)
