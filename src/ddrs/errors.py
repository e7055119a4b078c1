"""The one error that users see: an input that cannot be used, said in one line, with the nearest name where one is unknown."""

import difflib
from collections.abc import Iterable


class DdrsError(ValueError):
    """An input that cannot be used. The message is one line, whatever is named in it: what, where, and what is allowed."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class DdrsWarning(UserWarning):
    """What could not be used and was done without, in one line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """A text with line breaks and other characters that don't print, such as those of file names, as Python writes them in a string."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def nearest(name: str, known: Iterable[object]) -> str:
    """' (did you mean ...?)' if a known name is close, else nothing."""
    close = difflib.get_close_matches(name, [str(one) for one in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
