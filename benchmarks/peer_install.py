"""An environment for each peer under the cache folder, made once. What pip said is kept beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peer_tools import CPU_TORCH, Peer

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class NotInstalled(Exception):
    """Why there is no environment, with the place of the log."""


def install(cache: Path, name: str, peer: Peer, say: Callable[[str], None]) -> Path:
    """Python of the peer's environment."""
    if peer.requirement is None:
        return Path(sys.executable)
    folder = re.sub(r"[^a-z]+", "-", peer.requirement.split("==")[0]).strip("-")  # two rows may share one
    home = cache / "peers" / folder
    log = cache / "peers" / "logs" / f"{folder}.install.log"
    python, stamp = home / "bin" / "python", home / "installed"
    wanted = " ".join([peer.requirement, *(f"without {package}" for package in peer.unwanted)])
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing {peer.requirement} into {home}")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    base = _find_python(peer.oldest_python)
    _logged([str(base), "-m", "venv", "--clear", str(home)], log)
    for number, packages in enumerate(tries := _tries(peer)):
        try:
            _logged([str(python), "-m", "pip", "install", "--disable-pip-version-check", "-qq", *packages], log)
            break
        except NotInstalled:
            if number == len(tries) - 1:
                raise
    if peer.unwanted:
        _logged([str(python), "-m", "pip", "uninstall", "-qq", "-y", *peer.unwanted], log)
    stamp.write_text(wanted)
    return python


def _tries(peer: Peer) -> list[list[str]]:
    """Torch without CUDA is a tenth of the bytes, but PyPI does not have it: a wheel that pip is set up to find, else PyTorch's own
    index, else whatever PyPI gives."""
    assert peer.requirement is not None
    if not peer.light:
        return [[peer.requirement]]
    small = [peer.requirement, CPU_TORCH]
    return [small, [*small, "--extra-index-url", CPU_INDEX], [peer.requirement]]


def _find_python(oldest: tuple[int, int]) -> Path:
    """An interpreter that is new enough: this one, one on PATH, or one of pyenv's."""
    if sys.version_info >= oldest:
        return Path(sys.executable)
    names = [f"python3.{minor}" for minor in range(oldest[1], 15)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [Path(folder) / name for name in names for folder in os.environ.get("PATH", "").split(os.pathsep)]
    found += [path for name in names for path in sorted(pyenv.glob(f"*/bin/{name}"))]
    for path in found:
        # A shim of pyenv is there for versions that are not in use, and only says so.
        if path.exists() and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    raise NotInstalled(f"needs Python {oldest[0]}.{oldest[1]} or newer, and there is none on PATH or under {pyenv}")


def _logged(command: list[str], log: Path) -> None:
    with log.open("a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        done = subprocess.run(command, stdout=output, stderr=output, check=False)
    if done.returncode:
        raise NotInstalled(f"could not be installed: see {log}")
