"""Texts in Markdown as HTML: the guide, and what the operator writes. Safe: HTML in a text is shown, not interpreted.

Rules
1. A heading has an id made from its text, and a link to itself.
2. A fenced block is highlighted code with a copy button. Adjacent blocks marked `tab` (```` ```python tab ````) are one
   group, of which one is shown.
3. A table that is too wide scrolls by itself. It is called what its part of the text is called.
"""

import re
from collections.abc import Sequence
from functools import cache

import msgspec
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

LABELS = {
    "python": "Python",
    "js": "Node.js",
    "ts": "TypeScript",
    "sh": "curl",
    "json": "JSON",
    "toml": "TOML",
    "yaml": "YAML",
    "http": "HTTP",
    "text": "Text",
    "console": "Shell",
}
_LEXERS = {"sh": "bash", "console": "bash"}
_NO_LETTERS = re.compile(r"[^\w]+")


class Heading(msgspec.Struct, frozen=True):
    id: str
    level: int
    text: str


class Text(msgspec.Struct, frozen=True):
    """`title`: the first level-1 heading, which is not in `html`."""

    title: str
    html: Markup
    headings: tuple[Heading, ...]


class Code(msgspec.Struct, frozen=True):
    """A piece of code, and the title of its tab."""

    language: str
    text: str
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or LABELS.get(self.language, self.language)


def render(source: str) -> Text:
    parser = _parser()
    tokens = parser.parse(source)
    title, headings = _with_anchors(tokens)
    pieces: list[str] = []
    position = 0
    while position < len(tokens):
        end = position
        if tokens[position].type == "fence":
            while end < len(tokens) and tokens[end].type == "fence" and (end == position or _is_tab(tokens[end])):
                end += 1
            if not _is_tab(tokens[position]):
                end = position + 1
            pieces.append(tabs(f"code-{position}", [_code(token) for token in tokens[position:end]]))
        else:
            while end < len(tokens) and tokens[end].type != "fence":
                end += 1
            pieces.append(parser.renderer.render(tokens[position:end], parser.options, {}))
        position = end
    return Text(title, Markup("".join(pieces)), tuple(headings))  # noqa: S704 - escaped by the renderer


def inline(source: str) -> Markup:
    """A line of text, without a paragraph around it."""
    return Markup(_parser().renderInline(source))  # noqa: S704 - escaped by the renderer


def tabs(name: str, codes: Sequence[Code]) -> Markup:
    """One of `codes` is shown, initially the first. `name`: an id that nothing else on the page has."""
    if len(codes) == 1:
        return Markup('<div class="code">{}{}</div>').format(
            Markup('<div class="code-head"><span>{}</span>{}</div>').format(codes[0].name, _copy(f"{name}-0")),
            _block(f"{name}-0", codes[0]),
        )
    heads, panels = [], []
    for index, code in enumerate(codes):
        selected = "true" if index == 0 else "false"
        heads.append(
            Markup(
                '<button type="button" role="tab" id="{0}-tab-{1}" aria-controls="{0}-panel-{1}"'
                ' aria-selected="{2}" tabindex="{3}">{4}</button>'
            ).format(name, index, selected, 0 if index == 0 else -1, code.name)
        )
        panels.append(
            Markup('<div role="tabpanel" id="{0}-panel-{1}" aria-labelledby="{0}-tab-{1}"{2}>{3}{4}</div>').format(
                name,
                index,
                Markup(" hidden") if index else "",
                _copy(f"{name}-{index}"),
                _block(f"{name}-{index}", code),
            )
        )
    return Markup(
        '<div class="tabs code" id="{}"><div role="tablist" aria-orientation="horizontal" data-variant="line"'
        ' aria-label="Language">{}</div>{}</div>'
    ).format(name, Markup("").join(heads), Markup("").join(panels))


def colours(code: Code) -> Markup:
    """`code` in spans whose classes say what they are."""
    try:
        lexer = get_lexer_by_name(_LEXERS.get(code.language, code.language), stripnl=False)
    except ClassNotFound:
        return escape(code.text)
    return Markup(highlight(code.text, lexer, HtmlFormatter(nowrap=True)).rstrip("\n"))  # noqa: S704 - escapes


def _copy(target: str) -> Markup:
    return Markup(
        '<button type="button" class="btn code-copy" data-variant="ghost" data-size="sm" data-copy-from="{}"'
        ' aria-label="Copy the code"><span>Copy</span></button>'
    ).format(target)


def _block(name: str, code: Code) -> Markup:
    # So that it can be scrolled by keyboard too.
    scrolls = Markup('role="group" aria-label="{}" tabindex="0"').format(code.name)
    return Markup('<pre class="snippet" {}><code id="{}">{}</code></pre>').format(scrolls, name, colours(code))


def _code(token: Token) -> Code:
    language, _, label = token.info.partition(" ")
    return Code(language or "text", token.content.rstrip("\n"), label.removeprefix("tab").strip())


def _is_tab(token: Token) -> bool:
    return token.info.partition(" ")[2].startswith("tab")


def _with_anchors(tokens: list[Token]) -> tuple[str, list[Heading]]:
    """Give headings their ids, and tables the names of the parts that they are in; take the title out."""
    title, known = "", set[str]()
    headings: list[Heading] = []
    for index, token in enumerate(tokens):
        if token.type == "table_open":
            token.attrSet("aria-label", headings[-1].text if headings else title or "Table")
        if token.type == "th_open":
            token.attrSet("scope", "col")
        if token.type != "heading_open":
            continue
        inline = tokens[index + 1]
        text = "".join(child.content for child in inline.children or ())
        if token.tag == "h1" and not title:
            title = text
            for each in tokens[index : index + 3]:
                each.type, each.content, each.tag, each.children, each.hidden = "html_block", "", "", [], True
            continue
        slug = base = _NO_LETTERS.sub("-", text.lower()).strip("-") or "section"
        count = 1
        while slug in known:
            count += 1
            slug = f"{base}-{count}"
        known.add(slug)
        token.attrSet("id", slug)
        headings.append(Heading(slug, int(token.tag[1]), text))
        link = Token(
            "html_inline", "", 0, content=f'<a class="anchor" href="#{slug}" aria-label="Link to this part">#</a>'
        )
        inline.children = [*(inline.children or ()), link]
    return title, headings


def _table(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: object) -> str:
    name = renderer.renderAttrs(tokens[index])
    return f'<div class="scroll" role="group"{name} tabindex="0"><table{name} class="table">'


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("table_open", _table)
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser
