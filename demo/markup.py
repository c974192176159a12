"""Small pieces of HTML that the report is put together from. Every text is escaped here."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from demo.canvas import POLICY, Picture

ABOUT = {
    "uniform": "every sample once an epoch, in random order: the baseline",
    "curriculum": "BSS-H: ranked once by a measuring pass before training; the most balanced first, a growing share",
    "balance": "BSS-L: draws with replacement in proportion to exp(ŝ), scores refreshed every epoch",
    "bandit": "EXP3.S: learns from the reward which of six ways of drawing to use",
}


def figures(pictures: Iterable[Picture], kind: str = "panels") -> str:
    """Pictures side by side, as many as fit."""
    return f'<div class="{kind}">{"".join(f"<figure>{picture.svg}</figure>" for picture in pictures)}</div>'


def legend(policies: Iterable[str]) -> str:
    """Each policy's colour, and what the policy does."""
    entries = (
        f'<li style="--hue: var({_variable(p)})"><b>{escape(p)}</b> {escape(ABOUT.get(p, ""))}</li>' for p in policies
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def chip(policy: str) -> str:
    """A policy's name with its colour."""
    return f'<span class="policy" style="--hue: var({_variable(policy)})">{escape(policy)}</span>'


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """Large numbers, each with a line below it."""
    shown = (f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>" for number, text in numbers)
    return f'<div class="facts">{"".join(shown)}</div>'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are; what stands in backquotes is code."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{_value(value)}</dd>' for name, value in pairs)}</dl>"


def bullets(items: Iterable[str]) -> str:
    """A list of sentences."""
    return f'<ul class="plain">{"".join(f"<li>{escape(item)}</li>" for item in items)}</ul>'


def table(
    caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[tuple[str, Sequence[tuple[str, str]]]]
) -> str:
    """A table whose rows become cards on a narrow screen.

    columns: (name, CSS classes); rows: HTML of the first cell, then (text, CSS classes) of each other one.
    """
    head = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in columns)
    body = "".join(
        f"<tr><td>{first}</td>"
        + "".join(
            f'<td class="{kind}" data-label="{escape(name)}">{escape(text)}</td>'
            for (name, _), (text, kind) in zip(columns[1:], cells, strict=True)
        )
        + "</tr>"
        for first, cells in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _value(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _variable(policy: str) -> str:
    return f"--{policy}" if policy in POLICY else "--other-policy"
