"""Damages small GGUF files, each damage made from a number alone: `mutant(originals, seed, index)`.

Two ways: the bytes of a file (flipped, cut, overwritten, counts and offsets made absurd), and what it says (keys that
are missing, doubled, of another type or value; tensors of other shapes, types, names and places), written out soundly,
so that the damage passes the header's parser and meets what comes after.
"""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gguf_anatomy import ARRAY, BOOL, F32, F64, FORMATS, STRING, U32, Entry, Gguf, Scalar, Tensor, Written, write

_N_TYPES = 48  # of tensors: some more than ggml knows
_ABSURD = [0, 1, 2, 3, 7, 31, 33, 63, 64, 65, 127, 128, 255, 256, 257, 4095, 65535, 65536, 1 << 20, 1 << 24]
_ABSURD += [1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan")]
_TEXTS = [b"", b"\0", b"\xff\xfe", b"a" * 5000, b"llama", b"qwen3moe", b"gpt2", b"bert", b"none", b"rwkv", b"{{", b"%n"]
_TEXTS += [b"gemma4", b"t5", b"plamo2", b"spm", b"linear", b"yarn", b"qwen2", b"deepseek2", b"mamba", b"jamba"]


@dataclass(frozen=True)
class Mutant:
    kind: str
    original_idx: int
    content: bytes


ByteDamage = Callable[[random.Random, Written], bytes]
MeaningDamage = Callable[[random.Random, Gguf], None]


def _flip(rng: random.Random, content: bytearray, begin: int, end: int) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        content[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)


def _flip_part(part: str) -> ByteDamage:
    def flip(rng: random.Random, written: Written) -> bytes:
        content = bytearray(written.content)
        chosen = written.in_part(part)
        if part == "data" or rng.random() < 0.3:
            _flip(rng, content, chosen[0].begin, chosen[-1].end)
        else:  # long lists of tokens would otherwise take nearly all of the flips
            field = rng.choice(chosen)
            _flip(rng, content, field.begin, field.end)
        return bytes(content)

    return flip


def _cut(rng: random.Random, written: Written) -> bytes:
    field = rng.choice(written.fields)
    place = rng.choice([field.begin, field.end, rng.randint(field.begin, field.end), field.end - 1])
    return bytes(written.content[: max(0, place)])


def _absurd_field(*kinds: str) -> ByteDamage:
    def change(rng: random.Random, written: Written) -> bytes:
        content = bytearray(written.content)
        field = rng.choice(written.of_kind(*kinds))
        n = field.end - field.begin
        found = int.from_bytes(content[field.begin : field.end], "little")
        near = found + rng.choice([-32, -8, -4, -1, 1, 4, 8, 32, found, -(found // 2), 1 << 32, 1 << 63])
        value = rng.choice([rng.choice(_ABSURD), near, near, rng.randrange(64)])
        content[field.begin : field.end] = (value % (1 << 8 * n)).to_bytes(n, "little")
        return bytes(content)

    return change


def _splice(rng: random.Random, written: Written) -> bytes:
    content = bytearray(written.content)
    a, b = (rng.choice(written.fields) for _ in range(2))
    n = rng.choice([1, 4, 8, 16, 100])
    how = rng.randrange(4)
    if how == 0:
        del content[a.begin : a.begin + n]
    elif how == 1:
        content[a.begin : a.begin] = rng.randbytes(n)
    elif how == 2:
        content[a.begin : a.begin + n] = content[b.begin : b.begin + n]
    else:
        content[a.begin : a.end], content[b.begin : b.end] = content[b.begin : b.end], content[a.begin : a.end]
    return bytes(content)


def _new_value(rng: random.Random, value_type: int) -> Scalar:
    if value_type == STRING:
        return rng.choice(_TEXTS)
    if value_type in (F32, F64):
        return rng.choice([*_FLOATS, rng.uniform(-1e6, 1e6)])
    if value_type == BOOL:
        return rng.random() < 0.5
    size = struct.calcsize(FORMATS[value_type])
    raw = rng.choice([rng.choice(_ABSURD), rng.randrange(300)]) % (1 << 8 * size)
    number: int = struct.unpack(FORMATS[value_type], raw.to_bytes(size, "little"))[0]
    return number


def _pick(rng: random.Random, gguf: Gguf) -> Entry:
    return rng.choice(gguf.entries)


def _drop_key(rng: random.Random, gguf: Gguf) -> None:
    gguf.entries.remove(_pick(rng, gguf))


def _double_key(rng: random.Random, gguf: Gguf) -> None:
    gguf.entries.insert(rng.randrange(len(gguf.entries)), copy.deepcopy(_pick(rng, gguf)))


def _rename_key(rng: random.Random, gguf: Gguf) -> None:
    _pick(rng, gguf).key = rng.choice([b"", b"\xff", b"a" * 70000, _pick(rng, gguf).key, b"general.alignment"])


def _retype_key(rng: random.Random, gguf: Gguf) -> None:
    """The same key with a value of another type: a list for a number, a text for a list."""
    entry = _pick(rng, gguf)
    new_type = rng.choice([*FORMATS, STRING])
    if rng.random() < 0.4:
        n = rng.choice([0, 1, 2, len(entry.items), 1000])
        entry.value_type, entry.element_type = ARRAY, new_type
        entry.items = [_new_value(rng, new_type) for _ in range(n)]
    else:
        entry.value_type, entry.element_type = new_type, None
        entry.items = [_new_value(rng, new_type)]


def _revalue_key(rng: random.Random, gguf: Gguf) -> None:
    entry = rng.choice([entry for entry in gguf.entries if entry.items])
    item_type = entry.value_type if entry.element_type is None else entry.element_type
    for _ in range(rng.choice([1, 1, 5])):
        entry.items[rng.randrange(len(entry.items))] = _new_value(rng, item_type)


def _add_key(rng: random.Random, gguf: Gguf) -> None:
    """What llama.cpp looks for and this file has not."""
    architecture = gguf.find(b"general.architecture")
    prefix = bytes(architecture.items[0]) if architecture and isinstance(architecture.items[0], bytes) else b"llama"
    names = [b"rope.dimension_count", b"attention.key_length", b"attention.value_length", b"expert_group_count"]
    names += [b"expert_group_used_count", b"expert_gating_func", b"attention.sliding_window"]
    names += [b"leading_dense_block_count"]
    names += [b"rope.scaling.type", b"rope.scaling.factor", b"expert_shared_count", b"nextn_predict_layers"]
    names += [b"vocab_size", b"pooling_type", b"attention.causal", b"attention.layer_norm_epsilon"]
    names += [b"attention.clamp_kqv", b"expert_weights_scale", b"rope.dimension_sections", b"ssm.conv_kernel"]
    general = [b"general.alignment", b"split.count", b"split.no", b"tokenizer.chat_template", b"tokenizer.ggml.scores"]
    general += [b"tokenizer.ggml.unknown_token_id", b"tokenizer.ggml.add_eos_token", b"general.file_type"]
    general += [b"tokenizer.ggml.precompiled_charsmap", b"general.type", b"tokenizer.ggml.token_type_count"]
    key = rng.choice([*(prefix + b"." + name for name in names), *general])
    value_type = rng.choice([U32, U32, U32, F32, STRING, BOOL])
    gguf.entries.append(Entry(key, value_type, [_new_value(rng, value_type)]))


def _resize_list(rng: random.Random, gguf: Gguf) -> None:
    entry = rng.choice([entry for entry in gguf.entries if entry.element_type is not None])
    n = rng.choice([0, 1, len(entry.items) - 1, len(entry.items) // 2, len(entry.items) + 1, 3 * len(entry.items)])
    entry.items = (entry.items * 4)[: max(0, n)]


def _swap_values(rng: random.Random, gguf: Gguf) -> None:
    a, b = _pick(rng, gguf), _pick(rng, gguf)
    a.items, b.items, a.value_type, b.value_type = b.items, a.items, b.value_type, a.value_type
    a.element_type, b.element_type = b.element_type, a.element_type


def _drop_tensor(rng: random.Random, gguf: Gguf) -> None:
    gguf.tensors.remove(rng.choice(gguf.tensors))
    gguf.lay_out()


def _rename_tensor(rng: random.Random, gguf: Gguf) -> None:
    tensor = rng.choice(gguf.tensors)
    layer = rng.choice([b"0", b"1", b"2", b"9", b"65535", b"65536", b"99999999999999999999", b"-1", b"00"])
    name = tensor.name.split(b".", 2)
    moved = b".".join([b"blk", layer, name[2]]) if len(name) == 3 and name[0] == b"blk" else b"blk.0.ffn_up_exps.weight"
    tensor.name = rng.choice([moved, rng.choice(gguf.tensors).name, b"", b"\0", b"\xff\xfe", b"x" * 63, b"x" * 64])


def _reshape_tensor(rng: random.Random, gguf: Gguf) -> None:
    """Often one that takes as many bytes as before, so that only its meaning changes."""
    tensor = rng.choice(gguf.tensors)
    how = rng.randrange(6)
    if how == 0:
        rng.shuffle(tensor.ne)
    elif how == 1:
        tensor.ne = rng.choice([tensor.ne[:1], [*tensor.ne, 1], [*tensor.ne, 2], [1, *tensor.ne], [], [0]])
    elif how == 2 and len(tensor.ne) > 1:
        tensor.ne[0], tensor.ne[-1] = tensor.ne[0] * 2, tensor.ne[-1] // 2
    elif how == 3:
        tensor.ne = list(rng.choice(gguf.tensors).ne)
    else:
        tensor.ne[rng.randrange(len(tensor.ne))] = rng.choice(_ABSURD)
    tensor.ne = tensor.ne[:5]


def _retype_tensor(rng: random.Random, gguf: Gguf) -> None:
    rng.choice(gguf.tensors).type_id = rng.randrange(_N_TYPES)


def _fill_tensor(rng: random.Random, gguf: Gguf) -> None:
    """Bytes that mean infinities, numbers that are none, and the largest scales of blocks."""
    tensor = rng.choice(gguf.tensors)
    pattern = rng.choice([b"\0", b"\xff", b"\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\0\x7c", b"\xff\x7b", b"\x80"])
    n = rng.choice([len(tensor.data), len(tensor.data), len(tensor.data) // 8, 64])
    begin = rng.randrange(max(1, len(tensor.data) - n + 1))
    filled = (pattern * (n // len(pattern) + 1))[:n]
    tensor.data = tensor.data[:begin] + filled + tensor.data[begin + n :]


def _move_tensor(rng: random.Random, gguf: Gguf) -> None:
    a, b = (rng.randrange(len(gguf.tensors)) for _ in range(2))
    how = rng.randrange(3)
    if how == 0:
        gguf.tensors[a].offset = gguf.tensors[b].offset
    elif how == 1:
        gguf.tensors[a], gguf.tensors[b] = gguf.tensors[b], gguf.tensors[a]
    else:
        gguf.tensors[a].data, gguf.tensors[b].data = gguf.tensors[b].data, gguf.tensors[a].data
        gguf.lay_out()


def _add_tensor(rng: random.Random, gguf: Gguf) -> None:
    source = copy.deepcopy(rng.choice(gguf.tensors))
    names = [b"rope_freqs.weight", b"blk.0.attn_q.bias", b"blk.0.ffn_up_exps.bias", b"blk.0.ffn_gate_up_exps.weight"]
    names += [b"blk.7.ffn_up_exps.weight", b"blk.0.exp_probs_b.bias", b"blk.0.ffn_up.weight", b"token_types.weight"]
    gguf.tensors.append(Tensor(rng.choice(names), source.ne, source.type_id, 0, source.data))
    gguf.lay_out()


BYTE_DAMAGE: dict[str, ByteDamage] = {
    "bits of the header": _flip_part("header"),
    "bits of the metadata": _flip_part("metadata"),
    "bits of the tensor table": _flip_part("table"),
    "bits of the data": _flip_part("data"),
    "cut off": _cut,
    "absurd count": _absurd_field("count"),
    "another type's number": _absurd_field("type"),
    "absurd dimension": _absurd_field("dim"),
    "absurd offset": _absurd_field("offset"),
    "absurd number": _absurd_field("number"),
    "bytes moved": _splice,
}
MEANING_DAMAGE: dict[str, MeaningDamage] = {
    "key missing": _drop_key,
    "key doubled": _double_key,
    "key renamed": _rename_key,
    "key of another type": _retype_key,
    "key of another value": _revalue_key,
    "key added": _add_key,
    "list of another length": _resize_list,
    "values swapped": _swap_values,
    "tensor missing": _drop_tensor,
    "tensor renamed": _rename_tensor,
    "tensor of another shape": _reshape_tensor,
    "tensor of another type": _retype_tensor,
    "tensor's data": _fill_tensor,
    "tensor elsewhere": _move_tensor,
    "tensor added": _add_tensor,
}
KINDS = [*BYTE_DAMAGE, *MEANING_DAMAGE]


def mutant(originals: Sequence[Gguf], seed: int, index: int) -> Mutant:
    """The same for the same numbers. Kinds take turns, so that each has its share of any range."""
    rng = random.Random(f"{seed} {index}")
    kind = KINDS[index % len(KINDS)]
    original_idx = rng.randrange(len(originals))
    original = originals[original_idx]
    if kind in BYTE_DAMAGE:
        content = BYTE_DAMAGE[kind](rng, write(original))
    else:
        damaged = copy.deepcopy(original)
        for _ in range(rng.choice([1, 1, 1, 2])):
            if damaged.entries and damaged.tensors:
                MEANING_DAMAGE[kind](rng, damaged)
        content = bytes(write(damaged).content)
    return Mutant(kind, original_idx, content)
