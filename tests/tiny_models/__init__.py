"""Tiny random-weight GGUF models of every MoE family, for tests: seeded, a few MB, run by stock llama-cpp-python."""

from tiny_models.families import ARCHITECTURES, VARIANTS
from tiny_models.quantize import QUANT_TYPES
from tiny_models.split import split_model
from tiny_models.tokenizer import N_VOCAB
from tiny_models.writer import write_model

__all__ = ["ARCHITECTURES", "N_VOCAB", "QUANT_TYPES", "VARIANTS", "split_model", "write_model"]
