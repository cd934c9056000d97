"""`hobbit doctor`: what the probes read, and how what is wrong is told."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hobbit_py import cli
from hobbit_py.bundled import bundled_model
from hobbit_py.doctor import Check, Level, checks, probes, run_checks
from hobbit_py.errors import HostError

INFO = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 0 | FMA = 1 | LLAMAFILE = 1 | "


def found(name: str, model: Path | None = None) -> Check:
    return next(check for check in run_checks(model) if check.name == name)


def test_features_that_the_build_lacks() -> None:
    assert probes.unused_features(INFO, frozenset({"avx2", "fma"})) == []
    assert probes.unused_features(INFO, frozenset({"avx2", "f16c", "avx512f"})) == ["F16C", "AVX512"]
    assert probes.unused_features("NEON = 1", frozenset({"asimd", "asimddp"})) == ["DOTPROD"]
    assert probes.unused_features(INFO, frozenset()) == []


def test_one_ggml_is_mapped() -> None:
    check = found("one ggml")
    assert check.level is Level.ok
    assert "libggml-base" in check.found


def test_a_second_ggml_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "mapped_libraries", lambda _name: ["/a/libggml-base.so", "/b/libggml-base.so"])
    check = found("one ggml")
    assert check.level is Level.error
    assert "/b/libggml-base.so" in check.found
    assert check.fix


def test_missing_llama_cpp_is_an_error_and_the_other_checks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        error = HostError("llama-cpp-python 0.0.1 is installed.")
        return Check("llama-cpp-python", Level.error, str(error), "install it")

    monkeypatch.setattr(checks, "_check_host", broken)
    names = {check.name: check.level for check in run_checks()}
    assert names["llama-cpp-python"] is Level.error
    assert "one ggml" not in names
    assert "drive" in names


def test_version_gate_in_a_process_of_its_own() -> None:
    """The gates run at import, which this process has behind it."""
    code = (
        "import llama_cpp, sys; llama_cpp.__version__ = '0.0.1'\n"
        "from hobbit_py import cli; sys.exit(cli.main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    first = json.loads(done.stdout)["checks"][0]
    assert first["level"] == "error"
    assert "llama-cpp-python 0.0.1 is installed" in first["found"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "infinite"), ("GOMP_SPINCOUNT", "9999999")],
)
def test_spinning_threads_are_a_warning(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert found("cores").level is Level.warning


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "available_bytes", lambda: 1 << 30)
    check = found("memory")
    assert check.level is Level.warning
    assert "1.00 GiB free" in check.found


def test_limited_address_space_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1 << 32, 1 << 32))
    assert found("address space").level is Level.warning


def test_slow_and_odd_drives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "best_random_reads", lambda _path, _size: 100e6)
    assert found("drive").level is Level.warning
    monkeypatch.undo()
    small = tmp_path / "small.gguf"
    small.write_bytes(bytes(4096))
    assert "too small" in found("drive", small).found
    assert found("drive", tmp_path / "nowhere.gguf").level is Level.error


def test_io_uring_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "io_uring_error", lambda: "Operation not permitted")
    check = found("io_uring")
    assert check.level is Level.ok
    assert "Operation not permitted" in check.found


def test_io_uring_probe_leaves_no_descriptor_open() -> None:
    def open_descriptors() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    before = open_descriptors()
    probes.io_uring_error()
    assert len(open_descriptors()) == len(before)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(bundled_model()), "--json"]) == 0
    report = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "llama, 25.5 MiB of experts" in report["model"]["found"]
    assert str(bundled_model().parent) in report["drive"]["found"]
    assert cli.main(["doctor", "nowhere.gguf"]) == 1
    assert "error    model: " in capsys.readouterr().out
