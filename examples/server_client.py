"""Asks a running `hobbit serve` with OpenAI's client, and prints the answer as it comes and the server's figures.

hobbit serve &
python examples/server_client.py [--url http://127.0.0.1:8080] [--question "What is a dog?"]
"""

from __future__ import annotations

import argparse
import os

import openai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--question", default="What is a dog?")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=os.environ.get("HOBBIT_API_KEY", "none"))
    stream = client.chat.completions.create(
        model="any",  # the one that is loaded answers to every name
        messages=[{"role": "user", "content": options.question}],
        max_tokens=options.max_tokens,
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    state = client.get("../state", cast_to=dict[str, object])
    print(f"\n({state['last_tok_s']:.1f} tok/s, {state['n_hits']} hits, {state['n_misses']} misses)")


if __name__ == "__main__":
    main()
