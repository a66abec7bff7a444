"""Pretrained models: folders of the Hugging Face hub as modules, and back.

::

    model = dg.hub.load("all-MiniLM-L6-v2")
    tokens = dg.hub.tokenize(dg.hub.tokenizer("all-MiniLM-L6-v2"), ["a text", "another"])
    embeddings = dg.hub.mean_pool(model(*tokens), tokens.attention_mask)

BERT (MiniLM and other encoders of its shape), GPT-2, LLaMA (Mistral and Qwen2 too) and ViT. Nothing is
downloaded: a folder is one that is there.
"""

from distgrad.hub.bert import Bert
from distgrad.hub.config import Config
from distgrad.hub.folders import load, save
from distgrad.hub.gpt2 import GPT2
from distgrad.hub.llama import Llama, Mistral, Qwen2
from distgrad.hub.model import PretrainedModel
from distgrad.hub.tokens import Tokens, mean_pool, tokenize, tokenizer
from distgrad.hub.vit import ViT

__all__ = [
    "GPT2",
    "Bert",
    "Config",
    "Llama",
    "Mistral",
    "PretrainedModel",
    "Qwen2",
    "Tokens",
    "ViT",
    "load",
    "mean_pool",
    "save",
    "tokenize",
    "tokenizer",
]
