"""The installed llama-cpp-python: one ggml in the process, and a sentence when it is not the one we work with."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hobbit_py._cxx_runtime import own_runtime
from hobbit_py.cores import openmp_spin_count

SUPPORTED = "0.3.36"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_one_ggml_in_the_process() -> None:
    done = run_python("import hobbit_py\nhobbit_py.Llama\nprint(open('/proc/self/maps').read())")
    assert done.returncode == 0, done.stderr
    for name in ("libggml-base", "libggml-cpu", "libllama"):
        libraries = {line.split()[-1] for line in done.stdout.splitlines() if f"/{name}." in line}
        assert len(libraries) == 1, libraries
        assert Path(next(iter(libraries))).parent.parent.name == "llama_cpp"


REPORT = """
try:
    import hobbit_py.llama
except ImportError as error:
    import hobbit_py.errors
    assert isinstance(error, hobbit_py.errors.HostError), type(error)
    print(error)
"""


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (
            "import llama_cpp; llama_cpp.__version__ = '0.3.35'",
            f"llama-cpp-python 0.3.35 is installed and this hobbit_py needs {SUPPORTED}",
        ),
        ("import sys; sys.modules['llama_cpp'] = None", f"llama-cpp-python {SUPPORTED} cannot be imported"),
        (
            "import llama_cpp; from hobbit_py import _core; _core.ggml_version = lambda: '0.1.2'",
            "built with ggml 0.1.2 and this hobbit_py needs",
        ),
        (
            "import llama_cpp; from hobbit_py import _core; _core.ggml_backend_api_version = 1",
            "compiled for version 1 of ggml's backend interface",
        ),
        (
            "from hobbit_py import _cxx_runtime; _cxx_runtime.own_runtime = lambda library: 'libggml-cuda.so.0'",
            "a C++ runtime inside of libggml-cuda.so.0, which crashes beside the one that numpy loads",
        ),
    ],
)
def test_version_gates(setup: str, expected: str) -> None:
    done = run_python(f"{setup}\n{REPORT}")
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert done.stdout.count("\n") == 1
    assert "pip install" in done.stdout


def test_openmp_spins_as_long_as_suits_the_cores() -> None:
    """libgomp looks at the variable once, so it must be set before llama_cpp is imported."""
    code = """
import os, sys
os.environ.pop("GOMP_SPINCOUNT", None)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "llama_cpp":
            print(os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, Watch())
import hobbit_py
hobbit_py.Llama
"""
    assert run_python(code).stdout == f"{openmp_spin_count()}\n"


def test_supported_version_is_the_pinned_one() -> None:
    from hobbit_py import _host

    assert _host.SUPPORTED_LLAMA_CPP_PYTHON == SUPPORTED
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert f'"llama-cpp-python=={SUPPORTED}"' in project.read_text(encoding="utf-8")


WRITES_A_NUMBER = """
#include <sstream>

extern "C" int n_digits(long number) {
    std::ostringstream text;
    text << number;
    return static_cast<int>(text.str().size());
}
"""


@pytest.mark.parametrize(("flags", "is_own"), [([], False), (["-static-libstdc++"], True)])
def test_a_runtime_of_its_own_is_found(tmp_path: Path, flags: list[str], is_own: bool) -> None:
    """Two of these in a process, whichever comes first, and the second writes no number (or crashes)."""
    compiler = shutil.which("c++")
    assert compiler is not None
    (tmp_path / "writes.cpp").write_text(WRITES_A_NUMBER)
    library = tmp_path / "libwrites.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", *flags, "-o", library, tmp_path / "writes.cpp"], check=True, timeout=120
    )
    assert own_runtime(ctypes.CDLL(str(library))) == (library.name if is_own else None)
