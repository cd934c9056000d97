"""Machines unlike this one: other alignments, file systems without direct reads, one core, few handles, less memory.

Each case is a process of its own that compares exact mode with stock llama.cpp, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import memory_box
import numpy as np
from support import ArenaSize, arena_bytes, eval_logits, make_prompt, stock_logits
from tiny_models import split_model, write_model

import hobbit_py
from hobbit_py import _core
from hobbit_py.bundled import bundled_model
from hobbit_py.cores import n_usable_cores

from .preload import ReadFaults, build, preloading
from .process import Holdings

_ARCHS = ("qwen3moe", "deepseek2-fused", "gpt-oss")
_DECODE = make_prompt(4, seed=1)
_N_CTX = 256
_ONLY_ARCH = "HOBBIT_PLATFORMS_ARCH"  # for the processes of the cases


def check_exact(folder: Path, n_threads: int | None = 1) -> None:
    for arch in os.environ.get(_ONLY_ARCH, " ".join(_ARCHS)).split():
        path = write_model(folder / f"{arch}.gguf", arch)
        for n_prompt in (7, 64):
            prompt = make_prompt(n_prompt)
            threads = n_threads or n_usable_cores()
            expected = stock_logits(path, prompt, _DECODE, n_ctx=_N_CTX, n_threads=threads)
            for arena in ArenaSize:
                memory = arena_bytes(path, arena)
                with closing(
                    hobbit_py.Llama(path, expert_memory=memory, n_ctx=_N_CTX, n_threads=n_threads, logits_all=True)
                ) as llama:
                    assert np.array_equal(eval_logits(llama, prompt, _DECODE), expected), (arch, n_prompt, arena)
                    assert llama._engine is not None
                    llama._engine.check_invariants()
        path.unlink()


def aligned(folder: Path) -> None:
    """Direct reads must be aligned to HOBBIT_FAULTS_ALIGN: none is refused."""
    align = int(os.environ["HOBBIT_FAULTS_ALIGN"])
    path = write_model(folder / "model.gguf", "qwen3moe")
    with closing(hobbit_py.Llama(path, expert_memory=0, n_ctx=_N_CTX)) as llama:
        assert llama._engine is not None
        assert llama._engine.alignment == align, llama._engine.alignment
        llama.eval(make_prompt(7))
    assert ReadFaults().n_misaligned == 0, "reads were not aligned"
    check_exact(folder)
    assert ReadFaults().n_misaligned == 0, "reads were not aligned"


def one_core(folder: Path) -> None:
    """n_threads is left out: every core there is, one."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    check_exact(folder, n_threads=None)


def few_files(folder: Path) -> None:
    """1,024 open files at most, most of them taken; then so few that a split model cannot be opened."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(960)]
    check_exact(folder)
    parts = split_model(write_model(folder / "model.gguf", "qwen3moe"), 3)
    with closing(hobbit_py.Llama(parts[0], expert_memory=0, n_ctx=_N_CTX)) as llama:
        llama.eval(make_prompt(7))
    n_open = Holdings.now().n_files
    sentences = []
    for n_left in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + n_left, 1024))
        try:
            with closing(hobbit_py.Llama(parts[0], expert_memory=0, n_ctx=_N_CTX)) as llama:
                llama.eval(make_prompt(7))
        except hobbit_py.HobbitError as error:
            sentences.append(str(error))
        except OSError as error:  # of llama_cpp, which opens /dev/null
            sentences.append(f"{error.strerror}.")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    with closing(hobbit_py.Llama(parts[0], expert_memory=0, n_ctx=_N_CTX)) as llama:
        llama.eval(make_prompt(7))
    for descriptor in taken:
        os.close(descriptor)
    assert sentences
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences), sentences


def no_io_uring(_folder: Path) -> None:
    """Reads are preadv alone: nothing asks the kernel for io_uring."""
    assert b"io_uring" not in Path(_core.__file__).read_bytes()  # type: ignore[attr-defined]


def less_address_space(_folder: Path) -> None:
    """RLIMIT_AS is lowered to little above what is in use: a request is answered or ends with an error, the next works.

    With less to spare, llama.cpp itself ends the process: its llama_decode() lets std::bad_alloc through to C.
    """
    page = resource.getpagesize()
    with closing(hobbit_py.Llama(bundled_model(), expert_memory="8MiB", n_ctx=512, n_threads=1)) as llama:
        expected = llama.create_completion("It was", max_tokens=8, temperature=0.0)["choices"]
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        n_errors = 0
        for spare in (1 << 20, 1 << 22, 1 << 24):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * page
            resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
            try:
                found = llama.create_completion("It was", max_tokens=8, temperature=0.0)["choices"]
                assert found == expected
            except (MemoryError, hobbit_py.HobbitError):
                n_errors += 1
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            assert llama.create_completion("It was", max_tokens=8, temperature=0.0)["choices"] == expected
            assert llama._engine is not None
            llama._engine.check_invariants()
    print(f"{n_errors} of 3 requests ended with an error")


def lower_cgroup_limit(_folder: Path) -> None:
    """The limit of a control group is lowered as far as the kernel lets it, while a process in it generates."""
    command = [sys.executable, "-c", _GENERATE, str(bundled_model())]
    with memory_box.open_box(None) as box:
        child = subprocess.Popen(box.command(command), stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "loaded\n"
        limit_file = box.folders[0] / "memory.limit_in_bytes"
        usage_file = box.folders[0] / "memory.usage_in_bytes"
        if not limit_file.exists():
            limit_file, usage_file = box.folders[0] / "memory.max", box.folders[0] / "memory.current"
        limit = int(usage_file.read_text()) + (4 << 20)
        limit_file.write_text(str(limit))
        rest = child.stdout.read()
        assert child.wait() == 0, child.returncode
        assert rest == "right\n", rest
        assert not box.oom_killed()
        print(f"limit {limit >> 20} MiB, 4 MiB above what was in use")


_GENERATE = """
import sys
import hobbit_py
llama = hobbit_py.Llama(sys.argv[1], expert_memory="8MiB", n_ctx=512, n_threads=1)
options = {"max_tokens": 60, "temperature": 0.0}
expected = llama.create_completion("It was", **options)["choices"]
print("loaded", flush=True)
for _ in range(5):
    assert llama.create_completion("It was", **options)["choices"] == expected
print("right")
"""

PRELOAD_CASES: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "4 KiB alignment": (aligned, {"HOBBIT_FAULTS_ALIGN": "4096"}),
    "64 KiB alignment": (aligned, {"HOBBIT_FAULTS_ALIGN": "65536"}),
    "no O_DIRECT": (check_exact, {"HOBBIT_FAULTS_NO_DIRECT": "1"}),
}
CASES: dict[str, Callable[[Path], None]] = {
    "tmpfs": check_exact,
    "overlay": check_exact,
    "one core": one_core,
    "1,024 open files": few_files,
    "no io_uring": no_io_uring,
    "less address space": less_address_space,
    "a lower memory limit": lower_cgroup_limit,
}


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A folder on the file system that the case is about."""
    with ExitStack() as stack:
        memory = "/dev/shm" if name == "tmpfs" else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hobbit-platform.", dir=memory)))
        if name == "overlay":
            for part in ("lower", "upper", "work", "merged"):
                (folder / part).mkdir()
            layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
            merged = folder / "merged"
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
            stack.callback(subprocess.run, ["umount", merged], check=True)
            folder = merged
        yield folder


def run(options: argparse.Namespace) -> int:
    if options.inner is not None:
        with folder_of(options.inner) as folder:
            ({name: case for name, (case, _) in PRELOAD_CASES.items()} | CASES)[options.inner](folder)
        return 0
    n_broken = 0
    with tempfile.TemporaryDirectory(prefix="hobbit-platforms.") as folder:
        library = str(build("read_faults", Path(folder)))
        for name in options.case or [*PRELOAD_CASES, *CASES]:
            environment = {**os.environ, **({_ONLY_ARCH: options.arch} if options.arch else {})}
            if name in PRELOAD_CASES:
                environment |= {**preloading(library), **PRELOAD_CASES[name][1]}
            done = subprocess.run(
                [sys.executable, sys.argv[0], "platforms", "--inner", name],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            n_broken += done.returncode != 0
            said = f" ({done.stdout.strip()})" if done.stdout.strip() else ""
            print(f"platforms: {name}: {f'BROKEN: {done.stderr}' if done.returncode else 'right'}{said}", flush=True)
    return 1 if n_broken else 0


def add_options(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    names = [*PRELOAD_CASES, *CASES]
    parser.add_argument("--case", action="append", choices=names, help="this alone; may be given again")
    parser.add_argument("--arch", choices=_ARCHS, help="with this model alone")
    parser.add_argument("--inner", choices=names, help=argparse.SUPPRESS)
    return run
