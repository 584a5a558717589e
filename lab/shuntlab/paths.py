# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Where things are: the source tree, the cache, the state of this lab."""
import hashlib
import os
import pathlib

LAB = pathlib.Path(__file__).resolve().parent.parent
TOP = LAB.parent
BUILD = TOP / "build"


class LabError(Exception):
    """What went wrong, in words for the operator."""


def cache(*parts):
    """A path in the cache of kernels and images; its directory exists."""
    path = pathlib.Path(os.environ.get("SHUNT_CACHE", "/var/cache/shunt-lab")).joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def lab_dir():
    """The state of this lab; several may coexist, each with its own $SHUNT_LAB_DIR."""
    return pathlib.Path(os.environ.get("SHUNT_LAB_DIR", BUILD / "lab")).absolute()


def lab_tag(directory=None):
    """Short name of this lab (or that of @directory), in what it creates outside its directory (network namespaces)."""
    return "sl" + hashlib.sha256(str(directory or lab_dir()).encode()).hexdigest()[:4]


def digest(*parts):
    """Key of a cached thing: a hash over strings, bytes and the contents of paths."""
    h = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            part = part.read_bytes()
        if isinstance(part, str):
            part = part.encode()
        h.update(len(part).to_bytes(8, "little") + part)
    return h.hexdigest()[:16]
