"""Run a command as on a small machine: limited memory, page cache included, and a cold page cache.

    python scripts/memory_box.py --memory 2GiB [--read-mb-s 500 --drive-of model.gguf] -- COMMAND ...

The limit is a control group of its own (version 1 or 2, whichever has the memory controller), the optional read
throttle the block controller's. What was applied and the peak go to stderr; the exit code is the command's. Needs root.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sizes import parse_size

CGROUP_ROOT = Path("/sys/fs/cgroup")


class BoxError(Exception):
    """The box cannot be set up here; the message is one sentence for the user."""


@dataclass(frozen=True)
class BoxResult:
    """How a command ended. Peak: bytes charged to the box, page cache included; None where the kernel does not tell."""

    returncode: int
    stdout: str
    stderr: str
    peak_bytes: int | None
    oom_killed: bool


@dataclass(frozen=True)
class Box:
    """A control group that exists: the folders to join, and where its peak and its kills are read."""

    folders: tuple[Path, ...]
    peak_file: Path
    oom_file: Path

    def command(self, command: Sequence[str]) -> list[str]:
        """`command` behind a shell that joins the box first: nothing of this process runs between fork and exec."""
        joins = "".join('echo $$ > "$1/cgroup.procs" || exit 125; shift; ' for _ in self.folders)
        return ["/bin/sh", "-c", f'{joins}exec "$@"', "memory_box", *map(str, self.folders), *command]

    def peak_bytes(self) -> int | None:
        return int(self.peak_file.read_text()) if self.peak_file.exists() else None

    def oom_killed(self) -> bool:
        counters = dict(line.split() for line in self.oom_file.read_text().splitlines())
        return int(counters.get("oom_kill", 0)) > 0


@contextmanager
def open_box(memory_bytes: int | None, read_bytes_s: int | None = None, drive_of: Path | None = None) -> Iterator[Box]:
    """A box for the processes started inside the `with`; those still alive at its end are killed.

    `drive_of` is any path on the drive whose reads are throttled to `read_bytes_s` (default: the working directory).
    """
    if os.geteuid() != 0:
        raise BoxError("A memory box needs root: run the same command with sudo.")
    name = f"memory_box.{os.getpid()}.{time.monotonic_ns()}"
    throttle = None if read_bytes_s is None else (drive_number(drive_of or Path.cwd()), read_bytes_s)
    if (CGROUP_ROOT / "memory" / "memory.limit_in_bytes").exists():
        folders, settings = plan_v1(name, memory_bytes, throttle)
        files = folders[0] / "memory.max_usage_in_bytes", folders[0] / "memory.oom_control"
    elif (CGROUP_ROOT / "cgroup.controllers").exists():
        folders, settings = plan_v2(name, memory_bytes, throttle)
        files = folders[0] / "memory.peak", folders[0] / "memory.events"
    else:
        raise BoxError(
            f"No control groups with a memory controller under {CGROUP_ROOT}: mount them, or use another host."
        )
    try:
        for folder in folders:
            make_folder(folder)
        for setting, value in settings:
            write_setting(setting, value)
        yield Box(tuple(folders), *files)
    finally:
        for folder in folders:
            remove(folder)


def plan_v1(
    name: str, memory_bytes: int | None, throttle: tuple[str, int] | None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    folder = CGROUP_ROOT / "memory" / name
    folders, settings = [folder], []
    if memory_bytes is not None:
        settings.append((folder / "memory.limit_in_bytes", str(memory_bytes)))
        if (CGROUP_ROOT / "memory" / "memory.memsw.limit_in_bytes").exists():  # no way out through swap
            settings.append((folder / "memory.memsw.limit_in_bytes", str(memory_bytes)))
    if throttle is not None:
        block_folder = CGROUP_ROOT / "blkio" / name
        folders.append(block_folder)
        settings.append((block_folder / "blkio.throttle.read_bps_device", f"{throttle[0]} {throttle[1]}"))
    return folders, settings


def plan_v2(
    name: str, memory_bytes: int | None, throttle: tuple[str, int] | None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    folder = CGROUP_ROOT / name
    # Children get a controller only if the parent passes it on; systemd already does so for memory.
    settings = [(CGROUP_ROOT / "cgroup.subtree_control", "+memory" if throttle is None else "+memory +io")]
    if memory_bytes is not None:
        settings.append((folder / "memory.max", str(memory_bytes)))
        if Path("/proc/swaps").read_text().count("\n") > 1:
            settings.append((folder / "memory.swap.max", "0"))
    if throttle is not None:
        settings.append((folder / "io.max", f"{throttle[0]} rbps={throttle[1]}"))
    return [folder], settings


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise BoxError(
            f"Cannot make the control group {folder} ({error.strerror}): the container forbids it."
        ) from error


def write_setting(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise BoxError(
            f"Cannot set {path} to {value!r} ({error.strerror}): the kernel or container forbids it."
        ) from error


def remove(folder: Path) -> None:
    """Kill what still runs in the box and take it down; a dying process holds it for some milliseconds."""
    for _ in range(100):
        if not folder.exists():
            return
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)


def drive_number(path: Path) -> str:
    """major:minor of the whole drive that holds `path`: partitions cannot be throttled."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not entry.exists():
        raise BoxError(f"Reads of {path} cannot be throttled: its file system is not on a block device of its own.")
    entry = entry.resolve()
    if (entry / "partition").exists():
        entry = entry.parent
    return (entry / "dev").read_text().strip()


def drop_page_cache() -> None:
    os.sync()
    write_setting(Path("/proc/sys/vm/drop_caches"), "3")


def run_in_box(
    command: Sequence[str],
    memory_bytes: int | None,
    *,
    read_bytes_s: int | None = None,
    drive_of: Path | None = None,
    cold: bool = True,
    capture: bool = True,
    timeout_s: float | None = None,
    env: dict[str, str] | None = None,
) -> BoxResult:
    """Run `command` in a box of its own and wait for it.

    `memory_bytes` None leaves memory unlimited but still measured. `cold` empties the machine's page cache first.
    Raises `BoxError` if the box cannot be made, `subprocess.TimeoutExpired` after `timeout_s`; all in it then dies.
    """
    with open_box(memory_bytes, read_bytes_s, drive_of) as box:
        if cold:
            drop_page_cache()
        done = subprocess.run(
            box.command(command), capture_output=capture, text=True, timeout=timeout_s, env=env, check=False
        )
        return BoxResult(done.returncode, done.stdout or "", done.stderr or "", box.peak_bytes(), box.oom_killed())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=parse_size, required=True, help="limit, page cache included, e.g. 2GiB")
    parser.add_argument("--read-mb-s", type=float, help="read throttle in MB/s")
    parser.add_argument("--drive-of", type=Path, help="a path on the drive to throttle (the working directory)")
    parser.add_argument("--warm", action="store_true", help="leave the page cache as it is")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command given: end the line with -- COMMAND ...")
    if options.read_mb_s is not None and options.read_mb_s <= 0:
        parser.error(f"--read-mb-s is {options.read_mb_s}, expected more than 0")
    read_bytes_s = None if options.read_mb_s is None else int(options.read_mb_s * 1e6)
    throttle = "unthrottled" if read_bytes_s is None else f"{options.read_mb_s:g} MB/s"
    cache = "as it is" if options.warm else "cold"
    print(f"memory_box: limit {options.memory / 2**20:.0f} MiB, reads {throttle}, page cache {cache}", file=sys.stderr)
    try:
        result = run_in_box(
            command,
            options.memory,
            read_bytes_s=read_bytes_s,
            drive_of=options.drive_of,
            cold=not options.warm,
            capture=False,
        )
    except BoxError as error:
        print(f"memory_box: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"memory_box: cannot set up the box: {error.strerror}: {error.filename}.", file=sys.stderr)
        return 1
    peak = "unknown" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f} MiB"
    killed = "; the kernel killed a process for its memory" if result.oom_killed else ""
    print(f"memory_box: peak {peak}, page cache included{killed}", file=sys.stderr)
    return result.returncode if result.returncode >= 0 else 128 - result.returncode


if __name__ == "__main__":
    sys.exit(main())
