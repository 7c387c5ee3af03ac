"""XML files of parameters as trees whose elements know their lines, without entities."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from mlip_jax.config import UserError

LINE = "line of the file"
"""Attribute in which an element keeps the number of its line."""


def read(path: Path) -> ElementTree.Element:
    """Reads the root of an XML file.

    A file that declares a document type is refused: entities can expand without bound, or name
    other files.

    Raises:
        UserError: for a file that cannot be read, is not well formed or declares a type.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    builder = ElementTree.TreeBuilder()
    parser: Any = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, LINE: str(parser.CurrentLineNumber)})

    def refuse(*_) -> None:
        raise UserError(
            f"{path}, line {parser.CurrentLineNumber}: got a document type declaration; expected "
            "elements only. Remove it if you trust the file."
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise UserError(f"{path}: is not well-formed XML ({error}); is it complete?") from error
    return builder.close()


def attribute(path: Path, element: ElementTree.Element, name: str) -> str:
    """An attribute that has to be there.

    Raises:
        UserError: naming the line of the element.
    """
    value = element.get(name)
    if value is None:
        raise fault(path, element, f"<{element.tag}> has no attribute {name!r}")
    return value


def fault(path: Path, element: ElementTree.Element, what: str) -> UserError:
    """An error in an element."""
    return UserError(f"{path}, line {element.get(LINE)}: {what}.")
