# SPDX-License-Identifier: Apache-2.0
"""Pages of the documentation as HTML: one file each, with its style inside, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from ovms_mp import __version__
from ovms_mp.docs import PAGES, grouped_pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token

    from ovms_mp.docs import Page

_STYLE = """
:root{color-scheme:light dark;--line:#c8ccd4;--soft:#f3f4f7;--link:#0b57c2;--text:#1b1d22;--back:#fff}
@media(prefers-color-scheme:dark){:root{--line:#3d424d;--soft:#22252c;--link:#8ab4f8;--text:#e4e6eb;--back:#16181d}}
body{margin:0;font:16px/1.55 system-ui,sans-serif;color:var(--text);background:var(--back)}
a{color:var(--link)}
nav{padding:1rem 1.5rem;border-bottom:1px solid var(--line);background:var(--soft)}
nav dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.1rem;margin:0}nav dd{margin:0}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;margin:0;padding:0}
nav a[aria-current]{font-weight:700;color:inherit;text-decoration:none}
main{max-width:62rem;margin:0 auto;padding:1rem 1.5rem 4rem}
h1,h2,h3{line-height:1.25}h2{margin-top:2.4rem}
pre{padding:.8rem 1rem;overflow-x:auto;border:1px solid var(--line);border-radius:6px;background:var(--soft)}
code{font:.92em/1.45 ui-monospace,monospace;overflow-wrap:break-word}pre code{overflow-wrap:normal}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.94em}
th,td{border:1px solid var(--line);padding:.35rem .6rem;text-align:left;vertical-align:top}
th{background:var(--soft)}td:first-child code{white-space:nowrap}
@media print{nav{display:none}}
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = (
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)
_TOPICS = {page.file: topic for topic, page in PAGES.items()}


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def page_html(topic: str) -> bytes:
    """A page."""
    text = PAGES[topic].text()
    title = text.partition("\n")[0].lstrip("# ")
    return _document(title, _rendered(text), topic)


def index_html() -> bytes:
    """The list of pages."""
    tables = "".join(
        f"<h2>{html.escape(group)}</h2><table><tbody>{''.join(_row(*entry) for entry in pages.items())}</tbody></table>"
        for group, pages in grouped_pages()
    )
    body = (
        f"<h1>ovms_mp {html.escape(__version__)}</h1><p>The documentation of this release. A terminal shows the "
        f"same by <code>ovms_mp help TOPIC</code>.</p>{tables}"
        '<p>All REST calls: <a href="../openapi.json">openapi.json</a>.</p>'
    )
    return _document("Documentation", body, "")


def _row(topic: str, page: Page) -> str:
    return f'<tr><td><a href="{topic}">{html.escape(topic)}</a></td><td>{html.escape(page.about)}</td></tr>'


def _navigation(topic: str) -> str:
    """Links to all pages, a line for each group."""
    lines = [("", ("",)), *((group, tuple(pages)) for group, pages in grouped_pages())]
    return "".join(
        f"<dt>{html.escape(group)}</dt><dd><ul>{''.join(_link(name, topic) for name in names)}</ul></dd>"
        for group, names in lines
    )


def _link(name: str, topic: str) -> str:
    current = " aria-current=page" if name == topic else ""
    return f'<li><a href="{name or "./"}"{current}>{html.escape(name or "all pages")}</a></li>'


def _document(title: str, body: str, topic: str) -> bytes:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)} - ovms_mp</title><style>{_STYLE}</style></head><body>"
        f'<nav aria-label="Pages"><dl>{_navigation(topic)}</dl></nav><main>{body}</main></body></html>\n'
    ).encode()


def _rendered(markdown: str) -> str:
    # Comments mark derived tables; other HTML there is none.
    text = re.sub(r"^<!--.*?-->\n", "", markdown, flags=re.MULTILINE)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token, after in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", slug(_plain(after)))
        if token.type == "inline" and token.children:
            token.children = _with_links_that_lead_somewhere(token.children)
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return rendered.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())


def _with_links_that_lead_somewhere(tokens: Sequence[Token]) -> list[Token]:
    """Links to pages lead to their topics; those into the repository become words, as a server has none."""
    kept: list[Token] = []
    is_open = True
    for token in tokens:
        if token.type == "link_open":
            address = str(token.attrs.get("href", ""))
            is_open = True
            if not address.startswith(("https://", "http://", "#")):
                file, mark, anchor = address.partition("#")
                is_open = file in _TOPICS
                if is_open:
                    token.attrSet("href", _TOPICS[file] + mark + anchor)
            if not is_open:
                continue
        elif token.type == "link_close" and not is_open:
            is_open = True
            continue
        kept.append(token)
    return kept
