"""A byte-level GPT-2 vocabulary without training: every byte, some letter pairs, a few control tokens."""

from gguf import GGUFWriter, TokenType

N_VOCAB = 300

_CONTROL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|unused|>")


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]


def add_tokenizer(writer: GGUFWriter) -> None:
    """Token id = byte value below 256; then merged letter pairs; the control tokens come last."""
    symbols = _byte_symbols()
    n_merges = N_VOCAB - len(symbols) - len(_CONTROL_TOKENS)
    pairs = [(first, second) for first in "etaoinsh" for second in "raeiotns"][:n_merges]
    tokens = symbols + [first + second for first, second in pairs] + list(_CONTROL_TOKENS)
    n_normal = N_VOCAB - len(_CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * n_normal + [TokenType.CONTROL] * len(_CONTROL_TOKENS))
    writer.add_token_merges([f"{first} {second}" for first, second in pairs])
    writer.add_bos_token_id(n_normal)
    writer.add_eos_token_id(n_normal + 1)
    writer.add_pad_token_id(n_normal + 2)
    writer.add_add_bos_token(False)
