"""The way out to terminals, pipes and files: the one place where what is printed is made fit to print.

Captions, payloads and names of files are other people's, and a terminal obeys control characters in them: it
recolours, overwrites or retitles itself. So standard output and standard error escape them, whoever writes, from a
result to a traceback; only the styles of `console` get through. A character that the encoding lacks is written as an
escape, and a stream that is closed or full ends the command quietly.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from hysac_retrieval.errors import UNPRINTABLE, printable

if TYPE_CHECKING:
    from rich.console import Console

CLOSED_PIPE = 141
"""Exit code when a reader such as `head` has gone: 128 + SIGPIPE, as of other programs."""

_LIKE = str.maketrans({"–": "-", "…": "...", "→": "->", "≤": "<=", "“": '"', "”": '"', "×": "x", "±": "+-"})
"""What stands for the characters of our own sentences where the encoding lacks them."""


class Stream:
    """A text stream that escapes what is not fit to print (`styled` does not) and outlives what is behind it.

    It has no `buffer`, so that nothing writes past it.

    Args:
        stream: Standard output or standard error; None where the process was started without it.
        required: Whether the command is to end when nothing can be written any more.
    """

    def __init__(self, stream: TextIO | None, *, required: bool, escape: bool = True) -> None:
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.errors = "backslashreplace"
        self._stream, self._required, self._escape = stream, required, escape

    @property
    def styled(self) -> Stream:
        """The same stream for whoever has escaped the text himself and adds colours."""
        return Stream(self._stream, required=self._required, escape=False)

    def write(self, text: str) -> int:
        """Write a text."""
        if not isinstance(text, str):
            raise TypeError(f"expected a text, not {type(text).__name__}")
        if self._stream is not None:
            safe = lines_printable(text) if self._escape else text
            with self._ending():
                self._stream.write(encodable(safe, self.encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        if self._stream is not None:
            with self._ending():
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether a terminal is behind it."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Number of the file behind it."""
        if self._stream is None:
            raise OSError(errno.EBADF, "the stream is closed")
        return self._stream.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: closed by somebody
            stream, self._stream = self._stream, None
            with suppress(
                OSError, ValueError, AttributeError
            ):  # else Python writes the rest when it ends, and complains
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
            if not self._required:
                return
            gone = isinstance(error, BrokenPipeError) or getattr(error, "errno", 0) == errno.EPIPE
            if not gone:
                print(f"Error: the output cannot be written: {error}", file=sys.stderr)
            raise SystemExit(CLOSED_PIPE if gone else 1) from None


@contextmanager
def streams() -> Iterator[None]:
    """Put a `Stream` in the place of standard output and standard error."""
    _open_standard_files()
    before = sys.stdout, sys.stderr
    sys.stdout = Stream(before[0], required=True)
    sys.stderr = Stream(before[1], required=False)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except Exception:
        sys.excepthook = _traceback  # it is printed when these streams are gone
        raise
    finally:
        sys.stdout, sys.stderr = before


def _traceback(*error: Any) -> None:
    sys.stderr = Stream(sys.stderr, required=False)
    sys.__excepthook__(*error)


def _open_standard_files() -> None:
    """Open the standard files that the process was started without: else a database could become number 1 or 2."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def lines_printable(text: str) -> str:
    """Return a text fit to print, its line breaks kept."""
    return "\n".join(map(printable, text.split("\n")))


def encodable(text: str, encoding: str) -> str:
    """Return a text in which the characters that an encoding lacks are replaced or escaped."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_LIKE).encode(encoding, "backslashreplace").decode(encoding)
    return text


def json_text(value: Any) -> str:
    """Return a value as JSON that is fit to print and that any encoding has characters for."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not unicode, indent=2)
    return "\n".join(UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))


def console(*, stderr: bool = False, plain_width: int = 120) -> Console:
    """Open a console for results, or for what goes beside them; as wide as the terminal, or as said without one."""
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        """Escapes what it renders, and takes no text for markup."""

        def render(self, *arguments: Any, **options: Any) -> Iterator[Segment]:
            for segment in super().render(*arguments, **options):
                clean = segment.text if segment.control else lines_printable(segment.text)
                yield segment if clean == segment.text else Segment(clean, segment.style)

    stream: Any = sys.stderr if stderr else sys.stdout
    found = shutil.get_terminal_size((plain_width, 25)) if stream is not None and stream.isatty() else None
    width, height = (max(found.columns, 40), max(found.lines, 2)) if found else (plain_width, 25)
    return Safe(
        file=getattr(stream, "styled", stream),
        width=min(width, 1000),
        height=height,
        markup=False,
        emoji=False,
        highlight=False,
    )
