"""The running text of a Wikipedia article: what a reader sees, without templates, tables, references and markup."""

import html
import re

NESTED = 12  # templates within templates, at most
_DROPPED = "ref|math|chem|gallery|timeline|syntaxhighlight|source|code|pre|score|imagemap|nowiki"
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ELEMENT = re.compile(rf"<({_DROPPED})\b(?:[^<>]*/>|[^<>]*>.*?</\1\s*>)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE_LINE = re.compile(r"^[ :]*(?:\{\||\||!).*$", re.MULTILINE)
_LINK = re.compile(r"\[\[([^\[\]|]*)(?:\|([^\[\]]*))?\]\]")
_OUTSIDE = re.compile(r"\[(?:https?:)?//[^\s\]]*([^\]]*)\]|https?://\S+")
_QUOTES = re.compile(r"'{2,}")
_EDGE = re.compile(r"^[=*#:; ]+|=+ *$", re.MULTILINE)


def plain(text: str) -> str:
    """Paragraphs, headings and list items as lines; the words of links; captions, tables and footnotes left out."""
    text = _ELEMENT.sub(" ", _COMMENT.sub("", text))
    text = _repeated(_TEMPLATE, "", text)
    text = _TABLE_LINE.sub("", text)
    text = _repeated(_LINK, _shown, text)
    text = _OUTSIDE.sub(r"\1", text)
    text = _QUOTES.sub("", _TAG.sub(" ", text))
    return html.unescape(_EDGE.sub("", text))


def _repeated(pattern: re.Pattern[str], replacement: object, text: str) -> str:
    """Innermost first, until nothing is left to replace."""
    for _ in range(NESTED):
        text, replaced = pattern.subn(replacement, text)  # type: ignore[call-overload]
        if not replaced:
            break
    return text


def _shown(link: re.Match[str]) -> str:
    """The words of a link; nothing for a link into another namespace ("File:", "Datei:", "Category:")."""
    target, label = link[1], link[2]
    namespace, colon, rest = target.partition(":")
    if colon and namespace and rest[:1].strip():
        return ""
    return target.removeprefix(":") if label is None else label
