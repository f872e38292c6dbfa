"""The text of a page: Markdown without what stands around it.

As a program it extracts for another process, which ends it when it takes too long: pages may be
made to be slow, or to take all memory.
"""

from __future__ import annotations

import json
import re
import resource
import struct
import sys
from typing import Any, BinaryIO
from urllib.parse import urljoin

from visual_arft.errors import UserError
from visual_arft.types import Record

_FEW_CHARACTERS = 200
"""Less of an article is no article: then all text that is not plainly a menu is taken."""
_MOST_BYTES_OF_MEMORY = 2 * 2**30
_PDF_PAGES = 200

# A policy reads Markdown as it stands: what is escaped for a renderer would be a wrong answer.
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"\n]*\")?\)")


class Page(Record):
    """What a page says."""

    title: str
    text: str
    """Markdown; its links are whole addresses."""


def extract(body: bytes, kind: str, charset: str, url: str) -> Page:
    """The text of a fetched page; empty where it has none."""
    if kind == "application/pdf" or body.startswith(b"%PDF-"):
        return extract_pdf(body)
    if kind in ("text/html", "application/xhtml+xml") or _looks_like_html(body):
        return extract_html(body, url, charset)
    return Page(title="", text=decode(body, charset))


def extract_html(body: bytes, url: str, charset: str = "") -> Page:
    """The article of an HTML page or, where it has none, all of its text."""
    try:
        import trafilatura
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    except ImportError as error:
        raise UserError(
            f"reading pages needs {error.name or error}; pip install 'visual-arft[browse]'"
        ) from None
    html = decode(body, charset)
    tree = HTMLTree.parse(html)
    text = trafilatura.extract(
        html, url=url or None, output_format="markdown", include_links=True, include_tables=True
    )
    text = _ESCAPED.sub(r"\1", text or "")
    for main in (True, False):
        if len(text) >= _FEW_CHARACTERS:
            break
        all_of_it = extract_plain_text(tree, main_content=main, links=False)
        text = max(text, all_of_it, key=lambda each: len(each.split()))
    return Page(title=(tree.title or "").strip(), text=whole_links(text, url).strip())


def extract_pdf(body: bytes) -> Page:
    """The text of a PDF's first pages."""
    try:
        import pypdfium2
    except ImportError:
        raise UserError("reading PDF needs pypdfium2; pip install 'visual-arft[browse]'") from None
    try:
        document: Any = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError:
        return Page(title="", text="")
    pages = [
        document[number].get_textpage().get_text_bounded()
        for number in range(min(len(document), _PDF_PAGES))
    ]
    title = document.get_metadata_dict().get("Title", "")
    return Page(title=title, text="\n\n".join(pages).replace("\r\n", "\n").strip())


def decode(body: bytes, charset: str) -> str:
    """The characters of a page: as its header says where that is true, else as it looks."""
    for name in (charset, "utf-8-sig"):
        try:
            return body.decode(name)
        except (LookupError, UnicodeDecodeError, ValueError):
            continue
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return bytes_to_str(body, detect_encoding(body, html5_compatible=True) or "utf-8")


def whole_links(text: str, url: str) -> str:
    """Markdown with its links as whole addresses; pictures and links to nowhere lose theirs.

    >>> whole_links("[a](/b) ![c](d.png) [e](#f)", "http://x/y")
    '[a](http://x/b) c e'
    """

    def whole(link: re.Match[str]) -> str:
        picture, said, target = link.groups()
        try:
            address = urljoin(url, target)
        except ValueError:
            return said
        is_web = address.startswith(("http://", "https://")) and not target.startswith("#")
        return f"[{said}]({address})" if is_web and not picture else said

    return _LINK.sub(whole, text)


def _looks_like_html(body: bytes) -> bool:
    return bool(re.match(rb"\s*<(!doctype html|html)", body[:1000], re.IGNORECASE))


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message of a pipe; None at its end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    [length] = struct.unpack(">I", head)
    body = stream.read(length)
    return body if len(body) == length else None


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """Sends a message down a pipe."""
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES_OF_MEMORY, _MOST_BYTES_OF_MEMORY))
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # what a library prints is no answer
    while (asked := read_frame(sys.stdin.buffer)) is not None:
        how = json.loads(asked)
        body = read_frame(sys.stdin.buffer)
        if body is None:
            return
        try:
            answer = {"page": extract(body, **how).model_dump()}
        except UserError as error:
            answer = {"error": str(error)}
        except Exception as error:  # whatever a page did to a parser, it is about that page
            answer = {"broken": f"{type(error).__name__}"}
        write_frame(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    _main()
