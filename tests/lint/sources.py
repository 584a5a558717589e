# SPDX-License-Identifier: GPL-2.0-only
"""The files the linters look at, and how they report."""
import os
import pathlib
import subprocess
import sys

sys.dont_write_bytecode = True
TOP = pathlib.Path(__file__).resolve().parents[2]
SKIPPED_DIRS = ("build/", "LICENSES/")


def listed():
    """Paths below the top: what git tracks or would; in an unpacked archive, what is there."""
    git = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=TOP,
                         capture_output=True, check=False)
    if git.returncode == 0:
        return sorted(set(git.stdout.decode().split("\0")) - {""})
    found = []
    for base, dirs, names in os.walk(TOP):
        dirs[:] = [d for d in dirs if d not in ("build", ".git", "__pycache__")]
        found += [os.path.relpath(os.path.join(base, name), TOP) for name in names]
    return sorted(found)


def first_line(path):
    """The first line of a file, for its #! line."""
    with open(TOP / path, "rb") as file:
        return file.readline(200)


def kind(path):
    """c, python, shell, make, markdown, man, text, or None for what is no source."""
    name = os.path.basename(path)
    suffix = pathlib.Path(path).suffix
    by_suffix = {".c": "c", ".h": "c", ".py": "python", ".sh": "shell", ".mk": "make", ".md": "markdown",
                 ".pml": "text", ".txt": "text", ".conf": "text", ".service": "text", ".allow": "text"}
    if suffix in by_suffix:
        return by_suffix[suffix]
    if name in ("Makefile", "Kbuild"):
        return "make"
    if len(suffix) == 2 and suffix[1].isdigit() and path.startswith("man/"):
        return "man"
    line = first_line(path)
    if line.startswith(b"#!"):
        return "python" if b"python" in line else "shell" if b"sh" in line else "text"
    return None


def sources(*kinds):
    """Paths of these kinds (of all, if none is named)."""
    for path in listed():
        if path.startswith(SKIPPED_DIRS) or not (TOP / path).is_file() or (TOP / path).is_symlink():
            continue
        what = kind(path)
        if what and (not kinds or what in kinds):
            yield path, what


def text_of(path):
    """The file's text."""
    return (TOP / path).read_text(encoding="utf-8")


class Report:
    """Findings, one a line, and the exit status they make."""

    def __init__(self, name):
        self.name = name
        self.findings = 0

    def add(self, path, line, words):
        """One finding."""
        self.findings += 1
        print(f"{path}:{line}: {words}")

    def done(self, looked_at):
        """Say how it went and exit. Nothing looked at is a failure: a check that sees no file checks nothing."""
        if not looked_at:
            print(f"lint-{self.name}: no files found")
            sys.exit(1)
        print(f"lint-{self.name}: {looked_at} files, {self.findings} findings")
        sys.exit(1 if self.findings else 0)
