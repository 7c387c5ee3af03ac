"""Text files of parameters, word by word, with errors that name file and line."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlip_jax.config import UserError


class Lines:
    """Words of the lines of a text file that hold any, with errors that name the line.

    Args:
        path: of the file.
        join: mark at the end of a line that the next one continues.
        end: beginning of a line that ends the text; binary data may follow.
        comments: characters that begin a comment.
    """

    def __init__(
        self, path: Path, join: str | None = None, end: str | None = None, comments: str = "#"
    ):
        try:
            data = path.read_bytes()
            if end is not None:
                data = data.partition(b"\n" + end.encode())[0]
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}).") from error
        self.path = path
        self.number_of_line = 0
        self._lines = self._meaningful(text.splitlines(), join, comments)

    def next(self, expected: str | None, words: int = 1) -> list[str]:
        """Words of the next line.

        Args:
            expected: what it has to hold; `None` where the file may end (an empty list).
            words: the least number of them.
        """
        self.number_of_line, found = next(self._lines, (self.number_of_line + 1, []))
        if not found and expected is None:
            return []
        if len(found) < words:
            got = " ".join(found) or "the end of the file"
            raise self.error(f"got {got!r}; expected {expected or 'a keyword and its value'}")
        return found

    def number(self, word: str) -> float:
        """A word as a finite number."""
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise self.error(f"got {word!r}; expected a number")
        return value

    def integer(self, word: str) -> int:
        """A word as an integer that is not negative."""
        if not word.isdigit():
            raise self.error(f"got {word!r}; expected a number of things")
        return int(word)

    def error(self, what: str) -> UserError:
        """An error in the current line."""
        return UserError(f"{self.path}, line {self.number_of_line}: {what}.")

    @staticmethod
    def _meaningful(
        lines: list[str], join: str | None, comments: str
    ) -> Iterator[tuple[int, list[str]]]:
        words: list[str] = []
        for number, line in enumerate(lines, 1):
            words += re.split(f"[{comments}]", line, maxsplit=1)[0].split()
            if join and words and words[-1] == join:
                words.pop()
            elif words:
                yield number, words
                words = []
