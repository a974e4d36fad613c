"""
Docstrings in the style of Transformers as Markdown, for the documentation site (`extensions` in `mkdocs.yml`).

Sections become lists, and names in brackets, [`EcgModelOutput`], become links if the site documents them. A dataclass
whose fields have help texts for the command line lists them as its arguments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe


SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Warns|Example):\n((?:\n|[ ]{4}.*\n?)*)", re.MULTILINE)
NAMES = re.compile(r"^(\**\w+(?:, \**\w+)*)(?=[ :])")
REFERENCE = re.compile(r"\[`~?(?:\w+\.)*?((?:[A-Z]\w+\.)?\w+)`\](?![\[(])")


class TransformersDocstrings(griffe.Extension):
    """Rewrites all docstrings of a package once it is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """
        Rewrite them.

        Args:
            pkg (`griffe.Module`): The package.
        """
        documented = list(_objects(pkg))
        paths = {item.name: item.path for item in documented if item.is_class or item.is_function}
        paths |= {f"{item.parent.name}.{item.name}": item.path for item in documented if item.parent is not None}
        for item in documented:
            if item.docstring is not None:
                settings = "".join(_settings(item)) if item.is_class else ""
                text = f"{item.docstring.value}\n\n{f'Args:{chr(10)}{settings}' if settings else ''}"
                text = SECTION.sub(_section, text)
                item.docstring.value = REFERENCE.sub(lambda match: _link(match[1], paths), text)


def _settings(dataclass: griffe.Object) -> Iterator[str]:
    """A line for each field of a dataclass that has a help text."""
    for name, member in dataclass.members.items():
        if not isinstance(member, griffe.Attribute) or not str(member.value).startswith("field("):
            continue
        expression: Any = ast.parse(str(member.value), mode="eval")
        call = expression.body
        facts = {keyword.arg: keyword.value for keyword in call.keywords}
        default = f", *optional*, defaults to `{ast.unparse(facts['default'])}`" if "default" in facts else ""
        metadata = facts.get("metadata")
        if isinstance(metadata, ast.Dict):
            texts = {
                getattr(key, "value", None): value for key, value in zip(metadata.keys, metadata.values, strict=True)
            }
            if isinstance(text := texts.get("help"), ast.Constant):
                yield f"    {name} (`{member.annotation}`{default}): {text.value!s}\n"


def _objects(parent: griffe.Object) -> Any:
    yield parent
    for member in parent.members.values():
        if isinstance(member, griffe.Object):  # and not an alias of one elsewhere
            yield from _objects(member)


def _section(match: re.Match[str]) -> str:
    """One section: arguments and errors as a list with an item for each line that is not indented."""
    title, body = match[1], re.sub(r"^ {4}", "", match[2], flags=re.MULTILINE).strip("\n")
    if title not in ("Returns", "Yields", "Example"):
        lines = [
            f"    {line}" if line.startswith(" ") else f"- {NAMES.sub(_code, line)}" for line in body.splitlines()
        ]
        body = "\n".join(lines)
    return f"\n**{title}**\n\n{body}\n\n"


def _code(match: re.Match[str]) -> str:
    return ", ".join(f"`{name}`" for name in match[1].split(", "))


def _link(name: str, paths: dict[str, str]) -> str:
    return f'<autoref identifier="{paths[name]}" optional>`{name}`</autoref>' if name in paths else f"`{name}`"
