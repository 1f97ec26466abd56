"""Markers in Markdown pages: what stands between two of them is rendered, never typed.

A table stands between lines ``<!-- table: NAME -->`` and ``<!-- end table -->``; a figure in a sentence between
``<!-- = CALL -->`` and ``<!-- / -->``. Comments are invisible on GitHub and in Sphinx alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable

TABLE = re.compile(r"^<!-- table: (?P<name>[^\n]+?) -->\n(?P<body>.*?)^<!-- end table -->$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"<!-- = (?P<call>[^\n]+?) -->(?P<value>[^\n]*?)<!-- / -->")
OPENINGS = re.compile(r"<!-- (?:table: |= )")
# A line that begins with a comment is a block of HTML to Markdown, in which nothing else is formatted.
AT_LINE_START = re.compile(r"^\s*(?:(?:[-*+]|\d+\.)\s+)?<!-- = [^\n]*", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?![\w.]*\w)")
SENTENCE_ENDS = re.compile(r"(?<=[.:;]) |\n")
NO_RESULT_FILE = "(not in a result file)"
NOT_PROSE = re.compile(
    r"^```.*?^```$|`[^`]*`|\]\([^)]*\)|https?://\S+|arXiv \d+\.\d+|<!--.*?-->", re.MULTILINE | re.DOTALL
)


def fill(text: str, table: Callable[[str], str], figure: Callable[[str], str]) -> str:
    """Return a page with what stands between its markers rendered anew.

    Args:
        text: of the page.
        table: returns the lines of a table by its name.
        figure: returns the text of a figure by its call.

    Raises:
        ValueError: if a marker is not closed, or a figure begins a line.

    Example:
        >>> fill("Fast has <!-- = mean() -->?<!-- / --> %.", str, lambda call: "51.6")
        'Fast has <!-- = mean() -->51.6<!-- / --> %.'
    """
    closed = len(TABLE.findall(text)) + len(FIGURE.findall(text))
    if closed != (opened := len(OPENINGS.findall(text))):
        raise ValueError(f"expected every marker to be closed, got {opened} opened and {closed} closed")
    if found := AT_LINE_START.search(text):
        raise ValueError(f"expected a word before the figure, got a line that begins with it: {found[0].strip()}")
    text = TABLE.sub(lambda at: f"<!-- table: {at['name']} -->\n{table(at['name'])}\n<!-- end table -->", text)
    return FIGURE.sub(lambda at: f"<!-- = {at['call']} -->{figure(at['call'])}<!-- / -->", text)


def typed_numbers(text: str) -> list[str]:
    """Return the numbers with a decimal point that a page holds outside of markers, code and links.

    A sentence that says that its numbers are in no result file may hold them.

    Example:
        >>> typed_numbers("It has 51.6 %, `lr: 0.1`, <!-- = mean() -->53.7<!-- / --> and 40 rounds.")
        ['51.6']
    """
    rest = NOT_PROSE.sub("", FIGURE.sub("", TABLE.sub("", text)))
    sentences = (one for one in SENTENCE_ENDS.split(rest) if NO_RESULT_FILE not in one)
    return [number for one in sentences for number in NUMBER.findall(one)]


def typed_tables(text: str) -> list[str]:
    """Return the rows with a digit of tables that stand outside of markers.

    Example:
        >>> typed_tables("| Fast | 5 |")
        ['| Fast | 5 |']
    """
    rest = NOT_PROSE.sub("", TABLE.sub("", text))
    return [line for line in rest.splitlines() if line.lstrip().startswith("|") and re.search(r"\d", line)]
