"""The process of one run: python -m hobbit_py.bench.child. A Job as JSON on stdin, its Measurement as JSON on stdout.

A process of its own for every run: peak memory, CPU time and what a first load costs are a process's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HobbitError
from ..policies import Reroute, Substitute, WeightThresholds
from .decode import Measurement, RunShape, measure

if TYPE_CHECKING:
    from ..llama import Llama

MODULE = __name__ if __name__ != "__main__" else "hobbit_py.bench.child"


@dataclass(frozen=True)
class Job:
    """What to run: keywords of hobbit_py.Llama that JSON can hold, the text's file, the shape, and policies."""

    model: str
    text: str
    keywords: dict[str, Any] = field(default_factory=dict)
    shape: RunShape = field(default_factory=RunShape)
    policy: WeightThresholds | None = None
    router_filter: Reroute | Substitute | None = None

    def to_json(self) -> str:
        """Returns the document that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, document: str) -> Job:
        """Reads what `to_json` wrote."""
        fields = json.loads(document)
        router_filter = Reroute if "tolerance" in (fields["router_filter"] or {}) else Substitute
        kinds = {"shape": RunShape, "policy": WeightThresholds, "router_filter": router_filter}
        return cls(**fields | {name: kind(**fields[name]) for name, kind in kinds.items() if fields[name] is not None})


def run(job: Job) -> Measurement:
    """Runs a job in this process."""

    def load(n_ctx: int) -> Llama:
        from ..llama import Llama

        return Llama(
            job.model,
            n_ctx=n_ctx,
            n_batch=job.shape.n_batch,
            policy=job.policy,
            router_filter=job.router_filter,
            **job.keywords,
        )

    return measure(load, Path(job.text).read_text(encoding="utf-8", errors="replace"), job.shape)


def main(_arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; a failure is one sentence on the last line of stderr."""
    try:
        measurement = run(Job.from_json(sys.stdin.read()))
    except HobbitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(dataclasses.asdict(measurement)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
