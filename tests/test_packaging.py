"""What is declared is what is installed and tested."""

import re
import resource
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import wellfit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-")


def test_version() -> None:
    assert wellfit.__version__ == PROJECT["version"] == version("wellfit")
    assert f"[{wellfit.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_every_dependency_and_name_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text()
    pinned = {name(line): line for line in text.splitlines() if line and not line.startswith("#")}
    wanted = PROJECT["dependencies"] + [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    assert {name(r) for r in wanted} - {"wellfit"} <= set(pinned)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", line) for line in pinned.values())
    assert "://" not in text
    assert not [pin for pin in pinned if pin.startswith(("nvidia", "cuda", "triton"))]


def test_the_tested_versions_are_installed() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    for package in map(name, PROJECT["dependencies"]):
        pin = next(v for k, v in pins.items() if name(k) == package)
        assert version(package).split("+")[0] == pin, package


def test_core_stays_short_and_torch_is_not_pinned() -> None:
    assert len(PROJECT["dependencies"]) <= 9
    assert "torch>=2.11" in PROJECT["dependencies"]


def spent() -> float:
    """Seconds that the processes started from here, and ended, had a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick() -> None:
    """At most 0.5 s of a processor (the best of five, for other work may share the machine) and no torch."""
    times = []
    for _ in range(5):
        began = spent()
        done = subprocess.run([sys.executable, "-m", "wellfit", "--help"], capture_output=True, text=True, check=True)
        times.append(spent() - began)
    assert "train" in done.stdout
    assert min(times) < 0.5, times
    code = "import sys\nfrom wellfit.cli import app\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_licence() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
