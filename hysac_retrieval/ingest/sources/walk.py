"""Walk folders: every real file once, links followed, and what nobody means left out.

Links come last: first what lies in the folder itself, then linked folders, then linked files. So a file that can be
reached in several ways is listed by its own name, and is the same item as before somebody made a link to it.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.sources.names import folded

DEFAULT_EXCLUDE = (
    ".*",  # hidden files and folders, among them .git, .thumbnails and ._* of a Mac
    "@eaDir/",  # Synology: thumbnails
    "@Recycle/",
    "@Recently-Snapshot/",
    "#recycle/",
    "#snapshot/",
    "$RECYCLE.BIN/",
    "System Volume Information/",
    "lost+found/",
    "Thumbs/",
    "Thumbs.db",
    "__MACOSX/",
    "*.lrdata/",  # Lightroom: previews
)
"""What is left out of folders, unless an exclude pattern takes it back: ``!.thumbnails``."""

Fail = Callable[[str, SourceError], None]
"""Called with the path of something that cannot be walked."""


class Patterns:
    """Which files of a folder are meant, by patterns as in ``.gitignore``; case and composition make no difference.

    Args:
        include: Only files that match one of them; all if there are none.
        exclude: Neither files that match one of them, nor what is in folders that do, beside `DEFAULT_EXCLUDE`.

    Raises:
        SettingsError: A pattern cannot be read.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._in = _spec(include) if include else None
        self._out = _spec([*DEFAULT_EXCLUDE, *exclude])

    def file(self, path: str) -> bool:
        """Whether a file is meant, by its path within the folder, with forward slashes."""
        name = folded(path)
        return not self._out.match_file(name) and (self._in is None or self._in.match_file(name))

    def folder(self, path: str) -> bool:
        """Whether a folder is walked."""
        return not self._out.match_file(folded(path) + "/")


@dataclass(frozen=True, slots=True)
class Folder:
    """Files of one folder.

    Attributes:
        path: The folder.
        files: Names of those that are meant, sorted.
        beside: Names of all files there.
    """

    path: Path
    files: Sequence[str]
    beside: Sequence[str]


def walk(root: Path, patterns: Patterns, fail: Fail) -> Iterator[Folder]:
    """Walk a folder and all that it leads to.

    A folder is walked once, so that loops of links end. A link that leads nowhere goes to `fail`, since what it led to
    may be on a disk that is missing.
    """
    walked: set[tuple[int, int]] = set()
    folders, files = deque([root]), dict[Path, list[str]]()
    while folders:
        for folder, links in _tree(folders.popleft(), root, patterns, fail, walked):
            yield folder
            for name in links:
                path = folder.path / name
                inside = path.relative_to(root).as_posix()
                try:
                    is_folder = stat.S_ISDIR(os.stat(path).st_mode)
                except OSError as error:
                    if patterns.file(inside) and patterns.folder(inside):
                        hint = f"Mend it, remove it, or leave it out with --exclude {name!r}"
                        fail(str(path), SourceError(f"the link leads nowhere: {error.strerror}", hint=hint))
                    continue
                if is_folder and patterns.folder(inside):
                    folders.append(path)
                elif not is_folder and patterns.file(inside):
                    files.setdefault(folder.path, []).append(name)
    for path, linked in files.items():
        yield Folder(path, linked, sorted(os.listdir(path)))


def _tree(
    top: Path, root: Path, patterns: Patterns, fail: Fail, walked: set[tuple[int, int]]
) -> Iterator[tuple[Folder, list[str]]]:
    """Yield a folder and those in it, parents first, each with the names of its links."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            fail(str(path), SourceError(f"folder cannot be read: {error}"))
            continue
        prefix = "" if path == root else path.relative_to(root).as_posix() + "/"
        links = [entry.name for entry in entries if entry.is_symlink()]
        inside = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        plain = [entry.name for entry in entries if not entry.is_symlink() and not entry.is_dir()]
        meant = [name for name in plain if patterns.file(prefix + name)]
        yield Folder(path, meant, [entry.name for entry in entries]), links
        waiting += [path / entry.name for entry in reversed(inside) if patterns.folder(prefix + entry.name)]


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec:
    try:
        lines = (f"\\{line}" if line.startswith("#") else line for line in map(folded, patterns))  # none is a comment
        return GitIgnoreSpec.from_lines(list(lines))
    except ValueError as error:
        raise SettingsError(f"a pattern cannot be read: {error}", hint="Write it as in .gitignore") from error
