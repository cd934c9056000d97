"""A conversation of two turns, with what each answer cost.

python examples/chat.py [model.gguf] [--memory 8GiB]
"""

from __future__ import annotations

import argparse
from typing import Any

from hobbit_py import Llama
from hobbit_py.bundled import bundled_model

QUESTIONS = ("What is a dog?", "And what is a cat?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=str(bundled_model()))
    parser.add_argument("--memory", default="auto", help="budget of the whole process (auto)")
    parser.add_argument("--max-tokens", type=int, default=48)
    options = parser.parse_args()

    llama = Llama(options.model, memory=options.memory, n_ctx=None)
    messages: list[dict[str, Any]] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        before = llama.stats()
        answer = llama.create_chat_completion(messages, max_tokens=options.max_tokens, temperature=0)
        message = answer["choices"][0]["message"]
        messages.append(message)
        cost = llama.stats().since(before)
        print(f"> {question}\n{message['content']}")
        print(f"({cost.hit_rate:.0%} hits, {cost.read_bytes / 1e6:.1f} MB read)\n")
    llama.close()


if __name__ == "__main__":
    main()
