"""Make a trained Mixture-of-Experts GGUF as large as wanted without changing the function it computes.

Speed under memory pressure depends on how a trained router picks its experts, so a benchmark needs trained weights;
small trained models are easy to come by, large ones are not. Here every unit of the residual stream is repeated
`--embd` times and every unit of the experts' hidden layer `--ff` times. A matrix that reads a repeated vector is
divided by the repeat count, one that writes a repeated vector has its rows repeated. RMS norms see the same mean
square and the attention heads keep their width, so logits stay what they were up to rounding.

    python scripts/widen_gguf.py small.gguf wide.gguf --embd 8 --ff 3 --type Q8_0
    python scripts/widen_gguf.py small.gguf wide.gguf --size 4GB
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as QuantType
from sizes import parse_size

Floats = npt.NDArray[np.float32]

ARCHITECTURES = ("llama", "qwen3moe")

# Which dimension of a tensor grows with what: (rows, columns, divided). Columns are the contiguous dimension, for a
# matrix the one it reads. Only weights that read a repeated vector are divided: an embedding or a norm hands it on.
RULES: dict[str, tuple[str, str, bool]] = {
    "token_embd.weight": ("", "embd", False),
    "output.weight": ("", "embd", True),
    "output_norm.weight": ("", "embd", False),
    "attn_norm.weight": ("", "embd", False),
    "ffn_norm.weight": ("", "embd", False),
    "attn_q.weight": ("", "embd", True),
    "attn_k.weight": ("", "embd", True),
    "attn_v.weight": ("", "embd", True),
    "attn_q_norm.weight": ("", "", False),
    "attn_k_norm.weight": ("", "", False),
    "attn_output.weight": ("embd", "", False),
    "ffn_gate_inp.weight": ("", "embd", True),
    "ffn_gate_exps.weight": ("ff", "embd", True),
    "ffn_up_exps.weight": ("ff", "embd", True),
    "ffn_down_exps.weight": ("embd", "ff", True),
    "rope_freqs.weight": ("", "", False),
}


class WidenError(Exception):
    """The source cannot be widened; the message is one sentence for the user."""


@dataclass(frozen=True)
class Plan:
    """How one tensor of the widened file comes from a tensor of the source."""

    name: str
    source: gguf.ReaderTensor
    quant_type: QuantType
    rows: int  # repeat counts
    columns: int
    divided: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost dimension first, the reverse of GGUF's own order."""
        outer = [int(n) for n in reversed(self.source.shape)]
        outer[-1] *= self.columns
        if len(outer) > 1:
            outer[-2] *= self.rows
        return tuple(outer)

    @property
    def n_bytes(self) -> int:
        block_size, type_size = gguf.GGML_QUANT_SIZES[self.quant_type]
        return int(np.prod(self.shape, dtype=np.int64) // block_size * type_size)

    def matrices(self) -> Iterator[npt.NDArray[Any]]:
        """Encoded bytes of the tensor in file order, an expert or some thousand rows at a time to bound memory."""
        data = self.source.data
        parts: Iterable[npt.NDArray[Any]] = (data,)
        if len(self.source.shape) == 3:
            parts = data
        elif len(self.source.shape) == 2 and self.rows == 1:
            parts = (data[row : row + 4096] for row in range(0, len(data), 4096))
        for part in parts:
            weights: Floats = gguf.quants.dequantize(part, self.source.tensor_type)
            if self.divided:
                weights = weights / np.float32(self.columns)
            # A repeated row of whole blocks quantises to repeated blocks: quantise once, repeat the bytes.
            encoded = gguf.quants.quantize(weights, self.quant_type)
            repeats = (self.rows, self.columns) if encoded.ndim == 2 else (self.columns,)
            yield np.tile(encoded, repeats)


def plan_tensors(reader: gguf.GGUFReader, embd: int, ff: int, quant_type: QuantType) -> list[Plan]:
    times = {"": 1, "embd": embd, "ff": ff}
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    if "output.weight" not in by_name:  # tied to the embedding, which is not divided while the output is: untie them
        by_name["output.weight"] = by_name["token_embd.weight"]
    plans = []
    for name, source in by_name.items():
        rule = RULES.get(re.sub(r"^blk\.\d+\.", "", name))
        if rule is None:
            raise WidenError(f"no rule to widen tensor {name}: supported are Mixtral (llama) and qwen3moe layouts.")
        rows, columns, divided = rule
        exact = len(source.shape) == 1 or name.endswith("ffn_gate_inp.weight")  # norms and routers, small
        out_type = QuantType.F32 if exact else quant_type
        block_size = gguf.GGML_QUANT_SIZES[out_type][0]
        if int(source.shape[0]) % block_size:
            raise WidenError(
                f"tensor {name} has rows of {int(source.shape[0])} weights, {out_type.name} needs a multiple of "
                f"{block_size}: use --type F16."
            )
        plans.append(Plan(name, source, out_type, times[rows], times[columns], divided))
    return plans


def copy_metadata(
    reader: gguf.GGUFReader, writer: gguf.GGUFWriter, arch: str, embd: int, ff: int, out: QuantType
) -> None:
    scale = {
        f"{arch}.embedding_length": embd,
        f"{arch}.feed_forward_length": ff,
        f"{arch}.expert_feed_forward_length": ff,
    }
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        value = field.contents()
        if field.name in scale:
            value = value * scale[field.name]
        kind = field.types[0]
        writer.add_key_value(field.name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    file_type = gguf.LlamaFileType.MOSTLY_Q8_0 if out == QuantType.Q8_0 else gguf.LlamaFileType.MOSTLY_F16
    writer.add_file_type(file_type)
    if f"{arch}.attention.key_length" not in reader.fields:  # derived from the width otherwise, which has just changed
        head_dim = field_int(reader, f"{arch}.embedding_length") // field_int(reader, f"{arch}.attention.head_count")
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def field_int(reader: gguf.GGUFReader, key: str) -> int:
    field = reader.get_field(key)
    if field is None:
        raise WidenError(f"the source has no metadata key {key}.")
    return int(field.contents())


def open_source(path: Path) -> tuple[gguf.GGUFReader, str]:
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise WidenError(f"cannot read {path} as a GGUF file: {error}.") from error
    field = reader.get_field("general.architecture")
    arch = "" if field is None else str(field.contents())
    if arch not in ARCHITECTURES or f"{arch}.expert_count" not in reader.fields:
        raise WidenError(
            f"{path} cannot be widened: found architecture {arch or 'unknown'}, expected llama (Mixtral) or qwen3moe "
            "with experts."
        )
    split = reader.get_field("split.count")
    if split is not None and int(split.contents()) > 1:
        raise WidenError(f"{path} is one part of a split model: merge the parts into one file first.")
    return reader, arch


def widen(source: Path, target: Path, embd: int, ff: int, quant_type: QuantType) -> int:
    """Write the widened copy of `source` to `target` and return its size in bytes.

    The file appears under its name when it is complete: an interrupted run leaves only `<target>.partial`.
    """
    reader, arch = open_source(source)
    plans = plan_tensors(reader, embd, ff, quant_type)
    partial = target.with_name(target.name + ".partial")
    writer = gguf.GGUFWriter(partial, arch)
    copy_metadata(reader, writer, arch, embd, ff, quant_type)
    for plan in plans:
        writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), plan.n_bytes, raw_dtype=plan.quant_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()

    alignment = reader.alignment
    progress = Progress(sum(plan.n_bytes for plan in plans))
    with partial.open("ab") as out:
        for plan in plans:
            out.write(bytes(-out.tell() % alignment))
            for matrix in plan.matrices():
                out.write(matrix.data)
                progress.add(matrix.nbytes)
        out.write(bytes(-out.tell() % alignment))
        out.flush()
        os.fsync(out.fileno())
    progress.finish()
    partial.replace(target)
    return target.stat().st_size


class Progress:
    """One line on a terminal, nothing in a pipe."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._shown_percent = -1

    def add(self, n_bytes: int) -> None:
        self._done_bytes += n_bytes
        percent = 100 * self._done_bytes // self._total_bytes
        if percent != self._shown_percent and sys.stderr.isatty():
            self._shown_percent = percent
            print(f"\r{percent:3d}% of {self._total_bytes / 1e9:.2f} GB", end="", file=sys.stderr, flush=True)

    def finish(self) -> None:
        if self._shown_percent >= 0:
            print(file=sys.stderr)


def ff_for_size(source: Path, embd: int, quant_type: QuantType, wanted_bytes: int) -> int:
    """The repeat count of the hidden layer whose file comes nearest to `wanted_bytes` (size is linear in it)."""
    reader, _ = open_source(source)
    one, two = (sum(p.n_bytes for p in plan_tensors(reader, embd, ff, quant_type)) for ff in (1, 2))
    return max(1, round(1 + (wanted_bytes - one) / (two - one)))


def repeat_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a repeat count of 1 or more")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--embd", type=repeat_count, default=8, help="repeat count of the residual stream (8)")
    hidden = parser.add_mutually_exclusive_group()
    hidden.add_argument("--ff", type=repeat_count, help="repeat count of the experts' hidden layer (3)")
    hidden.add_argument("--size", type=parse_size, help="choose --ff for a file of about this size, e.g. 4GB")
    parser.add_argument("--type", default="Q8_0", choices=["Q8_0", "F16"], help="type of the matrices (Q8_0)")
    options = parser.parse_args(arguments)
    quant_type = QuantType[options.type]
    try:
        ff = options.ff or 3
        if options.size:
            ff = ff_for_size(options.source, options.embd, quant_type, options.size)
        if options.target.exists() and options.target.samefile(options.source):
            raise WidenError(f"{options.target} is the source itself: give another name for the widened file.")
        size_bytes = widen(options.source, options.target, options.embd, ff, quant_type)
    except WidenError as error:
        print(f"widen_gguf: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"widen_gguf: cannot write {options.target}: {error.strerror or error}.", file=sys.stderr)
        return 1
    print(f"{options.target}: {size_bytes / 1e9:.2f} GB, --embd {options.embd} --ff {ff} --type {options.type}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
