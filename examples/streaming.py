"""Streams a completion token by token and prints, beside each, the experts' bytes that it had to wait for.

python examples/streaming.py [model.gguf] [--expert-memory 8MiB]
"""

from __future__ import annotations

import argparse

from hobbit_py import Llama
from hobbit_py.bundled import bundled_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=str(bundled_model()))
    parser.add_argument("--expert-memory", default="8MiB", help="size of the expert cache (8MiB)")
    parser.add_argument("--max-tokens", type=int, default=24)
    options = parser.parse_args()

    llama = Llama(options.model, expert_memory=options.expert_memory, n_ctx=None)
    before = llama.stats()
    for chunk in llama.create_completion("Once upon a time", max_tokens=options.max_tokens, temperature=0, stream=True):
        now = llama.stats()
        print(f"{chunk['choices'][0]['text']!r:<16} {now.since(before).read_bytes / 1e6:8.2f} MB", flush=True)
        before = now
    llama.close()


if __name__ == "__main__":
    main()
