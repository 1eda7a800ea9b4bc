"""Common Crawl pools: the images of a page with absolute URLs and clean texts, whatever state the archive is in."""

import gzip
import json
import re
import socket
import subprocess
import sys
import threading
import zlib
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urljoin

import fsspec
import pytest
from crawl_files import HTML, described, html_metadata, image, warc, wat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from curate.crawl import archive
from curate.crawl.charset import as_utf8
from curate.crawl.html import images
from curate.crawl.page import Resolver, largest
from curate.dataset import Dataset
from curate.errors import BadShard, CurateError
from curate.pools import open_pool
from curate.storage import streams

PAGE = "http://a.test/news/today.html"


def read(text: str) -> list[tuple[str, str, str]]:
    pool = open_pool(str(text))
    return [row for part in pool.parts() for table in pool.read(part) for row in rows_of(table)]


def rows_of(table) -> list[tuple[str, str, str]]:
    assert table.column_names == ["url", "caption", "page"]
    return list(zip(*table.to_pydict().values(), strict=True))


def read_damaged(text: str, reason: str) -> list[tuple[str, str, str]]:
    """What comes before the BadShard that a pool of one file ends with."""
    pool = open_pool(str(text))
    (part,) = pool.parts()
    rows: list[tuple[str, str, str]] = []
    with pytest.raises(BadShard, match=reason) as failure:
        rows.extend(row for table in pool.read(part) for row in rows_of(table))
    assert str(failure.value).startswith(part)
    assert f"{len(rows):,} rows" in str(failure.value)
    return rows


@pytest.fixture
def stored(tmp_path):
    """stored(name, bytes) -> path"""

    def store(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return store


@pytest.fixture
def images_of(stored):
    """images_of(html, texts="alt", headers=...) -> the (url, caption) of one page in a WARC"""

    def images(html, texts="alt", headers=HTML, url=PAGE):
        path = stored("page.warc.gz", warc((url, html, headers)))
        found = read(f"warc(path={path}, texts='{texts}')")
        assert {page for _, _, page in found} <= {url}
        return [(image, text) for image, text, _ in found]

    return images


# WAT


def test_a_wat_gives_images_that_have_a_text(stored):
    links = [
        {"path": "A@/href", "url": "/other", "text": "elsewhere", "alt": "a link"},
        image("http://a.test/1.jpg", alt="one"),
        image("http://a.test/2.jpg"),
        image("http://a.test/3.jpg", alt=""),
        image("http://a.test/4.jpg", alt=None),
        image("http://a.test/5.jpg", alt=" \n"),
        image("", alt="no url"),
        image(None, alt="null url"),
        {"path": "IMG@/src", "alt": "without url"},
        {"url": "http://a.test/6.jpg", "alt": "without path"},
        {"path": None, "url": "http://a.test/7.jpg", "alt": "null path"},
        {"path": "STYLE/#text", "href": "b.png"},
        None,
        image("http://a.test/8.jpg", alt="eight", title="a title"),
    ]
    found = read(stored("a.warc.wat.gz", wat((PAGE, links))))
    assert found == [("http://a.test/1.jpg", "one", PAGE), ("http://a.test/8.jpg", "eight", PAGE)]


def test_pages_without_links_head_or_metadata_are_passed_over(stored):
    bodies = [
        described("response", PAGE, {"HTTP-Response-Metadata": None}),
        described("response", PAGE, {"HTTP-Response-Metadata": {"HTML-Metadata": None, "X": "IMG@/src"}}),
        described("response", PAGE, {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": None, "X": "IMG@/src"}}}),
        {"Envelope": {"Payload-Metadata": None, "X": "IMG@/src"}},
        {"Envelope": None, "X": "IMG@/src"},
        described("response", PAGE, {"HTTP-Response-Metadata": {"HTML-Metadata": {"Head": None, "Links": [
            image("/1.jpg", alt="one")]}}}),
    ]  # fmt: skip
    path = stored("a.warc.wat.gz", wat(*(json.dumps(body).encode() for body in bodies)))
    assert read(path) == [("http://a.test/1.jpg", "one", PAGE)]


def test_each_distinct_text_of_an_image_is_a_row(stored):
    links = [
        image("/1.jpg", alt="one", title="first"),
        image("/2.jpg", alt="two", title="two "),
        image("/3.jpg", title="3"),
    ]
    path = stored("a.warc.wat.gz", wat((PAGE, links)))
    found = read(f"wat(path={path}, texts='alt,title')")
    assert [(url[-5:], text) for url, text, _ in found] == [
        ("1.jpg", "one"), ("1.jpg", "first"), ("2.jpg", "two"), ("3.jpg", "3"),
    ]  # fmt: skip
    assert [text for _, text, _ in read(f"wat(path={path}, texts=title)")] == ["first", "two", "3"]


@pytest.mark.parametrize(
    ("kind", "texts"), [("wat", "alt,figcaption"), ("wat", "data-caption"), ("warc", "alt,a b"), ("warc", "")]
)
def test_texts_that_cannot_be_had_are_refused_by_name(kind, texts):
    with pytest.raises(CurateError, match=rf"in texts='{texts}' is no text that {kind} can read"):
        open_pool(f"{kind}(path=x, texts='{texts}')")


def test_text_is_one_line_without_blanks_around(stored):
    links = [image("/1.jpg", alt="  two\r\n   lines\tand a tab "), image("/2.jpg", alt="non\u00a0breaking  blanks")]
    found = read(stored("a.warc.wat.gz", wat((PAGE, links))))
    assert [text for _, text, _ in found] == ["two lines and a tab", "non\u00a0breaking  blanks"]


def test_json_that_is_no_utf8_is_repaired(stored):
    links = [image("/1.jpg", alt="caf\u00e9"), image("/2.jpg", alt="BAD"), image("/3.jpg", alt="a\u0000b")]
    response = {"HTTP-Response-Metadata": {"HTML-Metadata": html_metadata(links)}}
    body = json.dumps(described("response", PAGE, response), ensure_ascii=False)
    bodies = [body.encode("latin-1"), body.replace("BAD", "\\ud83d!").encode(), body.replace("BAD", "a\x01b").encode()]
    found = [text for _, text, _ in read(stored("a.warc.wat.gz", wat(*bodies)))]
    assert found == ["caf\ufffd", "BAD", "a\0b", "café", "?!", "a\0b", "café", "a\x01b", "a\0b"]


def test_a_record_that_is_no_json_is_left_out_and_told(stored):
    good = (PAGE, [image("/1.jpg", alt="one")])
    broken = [b'{"Envelope": "IMG@/src"', b'{"Envelope": ["IMG@/src"]}', b"[" * 100_000 + b'"IMG@/src"']
    path = stored("a.warc.wat.gz", wat(good, *broken, good))
    assert len(read_damaged(path, "3 records left out")) == 2


# URLs


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("http://b.test/1.jpg", "http://b.test/1.jpg"),
        ("HTTPS://b.test/1.jpg", "https://b.test/1.jpg"),
        ("//cdn.test/1.jpg?v=2", "http://cdn.test/1.jpg?v=2"),
        ("/1.jpg", "http://a.test/1.jpg"),
        ("1.jpg", "http://a.test/news/1.jpg"),
        ("./1.jpg", "http://a.test/news/1.jpg"),
        ("../img/1.jpg", "http://a.test/img/1.jpg"),
        ("../../../1.jpg", "http://a.test/1.jpg"),
        ("?id=3", "http://a.test/news/today.html?id=3"),
        ("  /a\n b\t.jpg ", "http://a.test/a%20b.jpg"),
        ("\\img\\1.jpg?a\\b", "http://a.test/img/1.jpg?a\\b"),
        ("/ü/日本.jpg", "http://a.test/ü/日本.jpg"),
        ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", None),
        (" DATA:image/gif,x", None),
        ("javascript:void(0)", None),
        ("blob:http://a.test/1", None),
        ("ftp://a.test/1.jpg", None),
        ("http://", None),
        ("https:///1.jpg", None),
        ("http://[bad/1.jpg", None),
        ("http://[::1]/1.jpg", "http://[::1]/1.jpg"),
        ("//[bad/1.jpg", None),
        ("", None),
        (" ", None),
    ],
)
def test_urls_are_absolute_and_of_the_web(url, absolute):
    assert Resolver(PAGE)(url) == absolute


@pytest.mark.parametrize(
    ("base", "absolute"),
    [
        ("http://b.test/x/", "http://b.test/x/1.jpg"),
        ("/img/", "http://a.test/img/1.jpg"),
        ("//c.test", "http://c.test/1.jpg"),
        ("  /img/\n", "http://a.test/img/1.jpg"),
        ("javascript:void(0)", "http://a.test/news/1.jpg"),
        ("data:x", "http://a.test/news/1.jpg"),
        ("http://[", "http://a.test/news/1.jpg"),
        ("", "http://a.test/news/1.jpg"),
        (None, "http://a.test/news/1.jpg"),
    ],
)
def test_base_is_what_relative_urls_start_from(base, absolute, stored, images_of):
    assert Resolver(PAGE, base)("1.jpg") == absolute
    links = [image("1.jpg", alt="one")]
    assert [url for url, _, _ in read(stored("a.warc.wat.gz", wat((PAGE, links, {"Base": base}))))] == [absolute]
    tag = "" if base is None else f'<base target="_top"><base href="{base}"><base href="http://late.test/">'
    assert images_of(f"<head>{tag}</head><img src=1.jpg alt=one>") == [(absolute, "one")]


SEGMENTS = st.sampled_from(
    ["", "a", "b.c", ".", "..", "...", ".d", "a b", "é", "x;y", "e=f", "g,h", "%20", "~u", "@v", "-"]
)
PATHS = st.lists(SEGMENTS, max_size=5).map("/".join)
QUERIES = st.sampled_from(["", "?", "?v=1", "?a=/../b", "#top", "?u=http://x/"])
STARTS = st.sampled_from(
    ["", "/", "//c.test/", "//c.test", "./", "../", "http://d.test/", "https://e.test:8080/", "HTTP://f/"]
)
RELATIVE = st.builds(lambda *parts: "".join(parts), STARTS, PATHS, QUERIES)
PAGES = st.builds(
    lambda *parts: "".join(parts), st.sampled_from(["http://a.test", "https://u@b.test:81"]),
    st.one_of(st.just(""), PATHS.map("/".__add__)), QUERIES,
)  # fmt: skip


@given(PAGES, RELATIVE)
@example("http://a.test", "b")
@example("http://a.test/..", "b")
@example("http://a.test//x", "b")
@example("http://a.test/x", "///y")
def test_resolving_is_urljoin(page, url):
    joined = url if url.startswith(("http://", "https://")) else urljoin(page, url) if url else ""
    expected = joined.replace("HTTP://", "http://")
    found = Resolver(page)(url)
    if " " in url:
        assert found == Resolver(page)(url.replace(" ", "%20"))
    else:
        assert found == (expected if expected.startswith("http") and urljoin(expected, "/") != "http:///" else None)


@pytest.mark.slow
@given(st.text(max_size=40), st.text(max_size=20))
def test_no_text_breaks_resolving(url, base):
    found = Resolver(PAGE, base)(url)
    assert found is None or (found.startswith(("http://", "https://")) and not set(found) & set("\t\n\r "))


# WARC


def test_images_of_a_page_as_a_browser_sees_it(images_of):
    page = """<!doctype html><html><head><title>T <img src=title.jpg alt=title></title>
      <script>document.write('<img src="script.jpg" alt="script">')</script>
      <style>img{} /* <img src=s alt=s> */</style></head>
      <body><!-- <img src=comment.jpg alt=comment> -->
      <div><p>open <IMG SRC='1.jpg' ALT='it&#39;s &lt;1&gt; &amp; more' alt=second><p><a href="<img src=q alt=q>">
      <table><tr><img src=2.jpg alt="line
        break"></table></a><img src=3.jpg><img src=4.jpg alt=""><img alt="no src"><img src="5.jpg" alt=five/>
      <textarea><img src=t.jpg alt=t></textarea><noscript><img src=6.jpg alt=six></noscript>
      <picture><source srcset=s.webp><img src=7.jpg alt=seven></picture>
      <image src=8.jpg alt=eight><amp-img src=9.jpg alt=nine>
      <svg><image href=svg.jpg alt=svg /></svg><img src=10.jpg alt=ten"""
    found = {url.rsplit("/", 1)[-1]: text for url, text in images_of(page)}
    assert found == {"1.jpg": "it's <1> & more", "2.jpg": "line break", "5.jpg": "five/", "6.jpg": "six",
                     "7.jpg": "seven", "8.jpg": "eight", "9.jpg": "nine"}  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ("src=1.jpg srcset='2.jpg 2x'", "1.jpg"),
        ("src=dot.gif data-src=1.jpg", "1.jpg"),
        ("src=dot.gif data-original=1.jpg", "1.jpg"),
        ("src='data:image/gif,x' data-lazy-src=1.jpg", "1.jpg"),
        ("src=dot.gif data-srcset='1.jpg 100w, 2.jpg 900w'", "2.jpg"),
        ("src='data:image/gif,x' srcset='1.jpg 100w, 2.jpg 900w, 3.jpg 300w'", "2.jpg"),
        ("srcset=1.jpg", "1.jpg"),
        ("src=1.jpg data-src=''", "1.jpg"),
        ("src=1.jpg data-src='data:image/gif,x'", "1.jpg"),
    ],
)
def test_a_lazily_loaded_image_is_where_its_script_takes_it_from(images_of, attributes, name):
    assert images_of(f"<img {attributes} alt=one>") == [(f"http://a.test/news/{name}", "one")]


@pytest.mark.parametrize(
    ("srcset", "url"),
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg 1x, b.jpg 2x", "b.jpg"),
        ("a.jpg, b.jpg 1.5x", "b.jpg"),
        ("a.jpg 320w,b.jpg 1024w,c.jpg 640w", "b.jpg"),
        ("http://x/w_1,h_2/a.jpg 1x, http://x/w_2,h_4/a.jpg 2x", "http://x/w_2,h_4/a.jpg"),
        ("a.jpg 10w 5h, b.jpg 5w", "a.jpg"),
        ("a.jpg nonsense, b.jpg 2x", "b.jpg"),
        ("a.jpg infx", "a.jpg"),
        (" , ,", ""),
        ("", ""),
    ],
)
def test_the_largest_of_a_srcset(srcset, url):
    assert largest(srcset) == url


def test_captions_of_figures_and_other_attributes(images_of):
    page = """<figure><a><img src=1.jpg alt=one title=First data-caption="caption 1"></a>
      <figcaption>The <b>first</b>\n one</figcaption></figure>
      <figure><img src=2.jpg><figure><img src=3.jpg><figcaption>inner</figcaption></figure>
      <figcaption>outer</figcaption></figure>
      <figure><img src=4.jpg alt=four></figure>"""
    texts = {}
    for url, text in images_of(page, "alt,title,figcaption,data-caption"):
        texts.setdefault(url[-5:], []).append(text)
    assert texts == {
        "1.jpg": ["one", "First", "The first one", "caption 1"],
        "2.jpg": ["outer"],
        "3.jpg": ["inner"],
        "4.jpg": ["four"],
    }


def test_only_html_that_was_answered_with_200_is_read(stored):
    page = "<img src=1.jpg alt=one>"
    pages = [
        ("http://a.test/1", page),
        ("http://a.test/2", page, HTML, "404 Not Found"),
        ("http://a.test/3", page, HTML, "301 Moved"),
        ("http://a.test/4", page, [("Content-Type", "text/plain")]),
        ("http://a.test/5", page, [("Content-Type", "image/svg+xml")]),
        ("http://a.test/6", page, [("content-type", "TEXT/HTML")]),
        ("http://a.test/7", page, [("Content-Type", "application/xhtml+xml; charset=utf-8")]),
        ("http://a.test/8", page, []),
        ("http://a.test/9", ""),
    ]
    assert [page[-1] for _, _, page in read(stored("a.warc.gz", warc(*pages)))] == ["1", "6", "7"]


TEXT = "Ångström — 日本"
META = "<meta http-equiv=Content-Type content='text/html; charset={}'>"


@pytest.mark.parametrize(
    ("page", "declared", "text"),
    [
        ("é 日本".encode(), None, "é 日本"),
        ("é".encode("latin-1"), None, "é"),
        ("“é”".encode("cp1252"), "iso-8859-1", "“é”"),
        ("é 日本".encode(), "iso-8859-1", "é 日本"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        ("日本".encode("euc_jp"), "euc-jp", "日本"),
        ("联通".encode("gbk"), "gb2312", "联通"),
        ("한국".encode("cp949"), "EUC-KR", "한국"),
        ("привет".encode("cp1251"), "windows-1251", "привет"),
        ("привет".encode("koi8-r"), '"koi8-r"', "привет"),
        ("ไทย".encode("cp874"), "tis-620", "ไทย"),
        (b"\xef\xbb\xbf" + "é".encode(), "shift_jis", "é"),
        ("\ufeffé日".encode("utf-16-le"), None, "é日"),
        ("\ufeffé日".encode("utf-16-be"), "utf-8", "é日"),
        ("é".encode(), "utf-16", "é"),
        (b"ok \xff\xfe", "utf-8", "ok \ufffd\ufffd"),
        ("é".encode("latin-1"), "no-such-charset", "é"),
        ("é".encode("latin-1"), "undefined", "é"),
        ("é".encode("latin-1"), "hex", "é"),
        ("é".encode("latin-1"), "idna", "é"),
        (b"a", "x\0y", "a"),
        (META.format("windows-1251").encode() + "привет".encode("cp1251"), None, "привет"),
        (b"<meta charset=euc-kr>" + "한국".encode("cp949"), None, "한국"),
        (b"<META CHARSET='Big5' />" + "中文".encode("big5"), None, "中文"),
        (b"<?xml version='1.0' encoding='iso-8859-2'?>" + "ł".encode("iso-8859-2"), None, "ł"),
        (b"<meta charset=utf-16>" + "é".encode(), None, "é"),
        (b"<meta charset=shift_jis>" + "привет".encode("cp1251"), "windows-1251", "привет"),
    ],
)
def test_characters_are_decoded_as_browsers_do(page, declared, text, images_of):
    assert as_utf8(page, declared).decode().split(">")[-1] == text


def test_the_charset_of_header_and_meta_tag_reaches_the_texts(images_of):
    page = "<img src=1.jpg alt='日本'>"
    assert images_of(page.encode("euc_jp"), headers=[("Content-Type", "text/html; charset=euc-jp")])[0][1] == "日本"
    assert (
        images_of(f"<meta charset=sjis>{page}".encode("shift_jis"), headers=[("Content-Type", "text/html")])[0][1]
        == "日本"
    )


def chunked(data: bytes) -> bytes:
    parts = [data[:9], data[9:]]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


PLAIN = b"<img src=1.jpg alt=one>"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(PLAIN, mtime=0), [("Content-Encoding", "gzip")]),
        (zlib.compress(PLAIN), [("Content-Encoding", "deflate")]),
        (chunked(PLAIN), [("Transfer-Encoding", "chunked")]),
        (chunked(gzip.compress(PLAIN, mtime=0)), [("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")]),
        (PLAIN, [("Content-Encoding", "gzip")]),
        (PLAIN, [("Content-Encoding", "br")]),
        (PLAIN, [("Transfer-Encoding", "chunked")]),
        (PLAIN, [("Content-Encoding", "something")]),
        (PLAIN, [("X-Crawl-Content-Encoding", "br")]),
    ],
)
def test_encodings_are_taken_off_where_the_body_still_has_them(body, headers, images_of):
    assert images_of(body, headers=[*HTML, *headers]) == [("http://a.test/news/1.jpg", "one")]


def test_a_wat_and_its_warc_give_the_same_pairs(stored):
    said = [
        ("1.jpg", "one"),
        ("/2.jpg", 'with "quotes" & <b>'),
        ("//c.test/3.jpg", "日本 🐈"),
        ("http://d.test/4.jpg", " 4 "),
    ]
    html = "".join(
        f"<p><img src='{url}' alt='{text.replace('&', '&amp;').replace('<', '&lt;')}'>" for url, text in said
    )
    from_warc = read(stored("a.warc.gz", warc((PAGE, html))))
    assert from_warc == read(stored("a.warc.wat.gz", wat((PAGE, [image(url, alt=text) for url, text in said]))))
    assert len(from_warc) == 4


HOSTILE = {
    "alt": f"<img src=1.jpg alt='{'word ' * 200_000}'>",
    "breaks": f"<img src=1.jpg alt='{chr(10) * 10**6}x'>",
    "url": f"<img src='{'a/' * 500_000}' alt=x>",
    "dots": f"<img src='{'../' * 300_000}' alt=x>",
    "srcset": f"<img srcset='{'a' * 10**6}' alt=x>",
    "commas": f"<img srcset='{'a, ' * 300_000}' alt=x>",
    "nesting": "<div>" * 200_000 + "<img src=1.jpg alt=x>",
    "formatting": "<p>" + "".join(f"<b id={n}>" for n in range(40_000)) + "<p>x" * 100_000 + "<img src=1.jpg alt=x>",
    "meta": "<meta " * 170_000 + "><img src=1.jpg alt=x>",
    "titles": "<title/>" * 100_000 + "<img src=1.jpg alt=x>",
    "templates": "<template>" * 100_000 + "<img src=1.jpg alt=x>",
    "tags": "<" * 10**6 + "<img src=1.jpg alt=x>",
    "quotes": '<a b="' * 100_000 + '"><img src=1.jpg alt=x>',
    "equals": "<a b" + "= " * 10**6 + "><img src=1.jpg alt=x>",
    "figures": "<figure>" * 100_000 + "<img src=1.jpg alt=x>" + "</figure>" * 100_000,
    "captions": "<img src=1.jpg alt=x><figure>" + "<figcaption><!--" * 60_000,
    "caption": "<img src=1.jpg alt=x><figure><figcaption>" + "<!-- <" * 100_000 + "<b c='" * 100_000,
    "comments": "<!--" * 200_000 + "--><img src=1.jpg alt=x>",
}


@pytest.mark.slow
# each takes a second; where the cost grows with the square of the size, minutes to hours
@pytest.mark.parametrize("html", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_page_costs_no_more_than_its_size(html, images_of):
    assert len(images_of(html, "alt,figcaption")) == 1


TAGS = [
    "<img src=1.jpg alt=one>", "<IMG SRC='2.jpg' Alt=\"two > 2\">", "<img alt='a \"q\" b' src=3.jpg/>",
    "<img\n/src=4.jpg\talt = four >", "<img alt=it's src=5.jpg>", "<img src=6.jpg alt=a=b\"c>", "<img alt src=7.jpg>",
    "<img", "<img ", ">", "<", "</", "/>", "<image src=8.jpg alt=8>",
    "<imgs src=9.jpg>", "<p title='<img src=no alt=no>'>",
    "<p title=\"it's\">", "<a b='\">", "<a b=\"'>", "'", '"', "=", " x ", "é", "-->", "--!>", "<!>", "<!doctype html>",
    "<?php >", "</>", "</3 >", "</p x='>'>", "<![CDATA[ <img src=c alt=c> ]]>", "<style>", "</style>", "<textarea>",
    "</textarea\n>", "<title>", "</title>", "<xmp>", "</xmp>", "<iframe>", "</iframe>", "<noscript>", "</noscript>",
    "<smg a='<img>'>", "<!style >", "<b>", "<p>", "</p>", "<table><tr><td>", "</table>", "<div>", "</div>",
]  # fmt: skip
COMMENTS = ["<!--", "<!-->", "<!-- <img src=c alt=c>"]
SCRIPTS = ["<script>", "</script>", "<SCRIPT a='>'>if (a<b) '<img src=s alt=s>'", "</script x>"]
# a comment inside a script that holds "<script>" hides its end from browsers; here a script ends with its first end
SOUP = st.one_of(*(st.lists(st.sampled_from(TAGS + some), max_size=12).map("".join) for some in (COMMENTS, SCRIPTS)))


@pytest.mark.slow
@given(SOUP)
@settings(max_examples=400)
def test_the_images_found_are_those_of_the_tree_that_a_browser_makes(page):
    tree = LexborHTMLParser(f"<body>{page}")
    found = images(f"<body>{page}".encode())
    wanted = sorted(sorted_items(node.attributes) for node in tree.tags("img"))
    assert sorted(map(sorted_items, found.attributes)) == wanted
    assert len(found.attributes) == len(found.captions)


def sorted_items(attributes) -> list:
    return sorted((name, value or "") for name, value in attributes.items())


# damage

PAGES_OF_TWO = [
    (f"http://a.test/{n}", [image(f"{n}.jpg", alt=f"text {n}"), image("/x.jpg", alt=f"x {n}")]) for n in range(6)
]
WAT = wat(*PAGES_OF_TWO)
WARC = warc(*((url, "".join(f"<img src={i['url']} alt='{i['alt']}'>" for i in links)) for url, links in PAGES_OF_TWO))
WHOLE = [(f"http://a.test/{src}", f"{text} {n}", f"http://a.test/{n}")
         for n in range(6) for src, text in ((f"{n}.jpg", "text"), ("x.jpg", "x"))]  # fmt: skip


def members(data: bytes) -> list[int]:
    """Where the gzip members end."""
    ends, rest = [], data
    while rest:
        member = zlib.decompressobj(31)
        member.decompress(rest)
        rest = member.unused_data
        ends.append(len(data) - len(rest))
    return ends


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("a.warc.wat.gz", WAT), ("a.warc.gz", WARC)])
def test_wherever_an_archive_is_cut_the_records_before_are_kept_and_it_is_told(stored, name, data):
    ends = members(data)
    assert read(stored(name, data)) == WHOLE
    for cut in [*range(0, len(data), 97), *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])]:
        if cut not in ends:  # at the end of a record nothing tells that there were more
            found = read_damaged(stored(name, data[:cut]), "is damaged after")
            complete = [row for row, _ in zip(WHOLE, range(len(found)), strict=False)]
            assert found == complete
    assert len(found) > 0


@pytest.mark.parametrize(("name", "data"), [("a.warc.wat.gz", WAT), ("a.warc.gz", WARC)])
def test_a_changed_byte_loses_no_record_before_it(stored, name, data):
    ends = members(data)
    for number in range(4, len(ends)):
        spoilt = bytearray(data)
        spoilt[ends[number] - 30 : ends[number] - 20] = b"\xff" * 10
        found = read_damaged(stored(name, bytes(spoilt)), "is damaged after")
        assert found == WHOLE[: len(found)]
        assert len(found) >= (number - 1) // 3 * 2


def test_an_uncompressed_archive_is_read_and_its_cut_record_told(stored):
    data = gzip.decompress(WARC)
    assert read(stored("a.warc", data)) == WHOLE
    assert read_damaged(stored("b.warc", data[: data.rfind(b"<img") + 4]), "cut short") == WHOLE[:10]
    between = {at for start in re.finditer(rb"WARC/1", data) for at in range(start.start() - 4, start.start() + 1)}
    for cut in {
        *range(1, len(data) - 4, 97),
        *(start.start() + 3 for start in re.finditer(rb"WARC/1", data)),
    } - between:
        found = read_damaged(stored("b.warc", data[:cut]), "is damaged after")
        assert found == WHOLE[: len(found)]


def test_a_file_that_is_one_gzip_member_is_read(stored):
    data = gzip.compress(gzip.decompress(WAT))
    assert read(stored("a.wat.gz", data)) == WHOLE
    for cut in range(10, len(data), 41):
        found = read_damaged(stored("b.wat.gz", data[:cut]), "is damaged after")
        assert found == WHOLE[: len(found)]


@pytest.mark.parametrize(
    "content", [b"", b"<html>404 Not Found</html>" * 50, gzip.compress(b"not a record", mtime=0), b"\x1f\x8b\x08"]
)
def test_what_is_no_archive_is_told(stored, content):
    assert read_damaged(stored("a.warc.wat.gz", content), "is damaged after 0 rows") == []


def test_a_length_beyond_the_file_does_not_fill_the_memory(stored):
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: 99999999999\r\n\r\n"
    record = head + b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000
    assert read_damaged(stored("a.warc", gzip.decompress(WARC) + record), "cut short") == WHOLE


def test_rows_come_in_batches(stored):
    pages = [(f"http://a.test/{n}", [image(f"{i}.jpg", alt=f"text {i}") for i in range(1000)]) for n in range(40)]
    pool = open_pool(stored("a.warc.wat.gz", wat(*pages)))
    sizes = [len(table) for table in pool.read(*pool.parts())]
    assert sum(sizes) == 40_000
    assert max(sizes) <= archive.ROWS + 1000


# where archives are


def test_a_path_list_names_the_archives_of_a_crawl(stored, tmp_path):
    one = stored("crawl/segments/1/wat/one.warc.wat.gz", WAT)
    two = stored("crawl/segments/2/wat/two.warc.wat.gz", wat(PAGES_OF_TWO[0]))
    listed = gzip.compress(b"segments/2/wat/two.warc.wat.gz\nsegments/1/wat/one.warc.wat.gz\n\n")
    path = stored("lists/wat.paths.gz", listed)
    pool = open_pool(f"wat(path={path}, base={tmp_path}/crawl/)")
    assert pool.parts() == [one, two]
    assert len([row for part in pool.parts() for table in pool.read(part) for row in rows_of(table)]) == 14
    prefix = "https://data.commoncrawl.org/segments"
    assert open_pool(path).parts() == [f"{prefix}/1/wat/one.warc.wat.gz", f"{prefix}/2/wat/two.warc.wat.gz"]
    assert open_pool(f"wat(path={path}, base=s3://commoncrawl)").parts()[0].startswith("s3://commoncrawl/segments/1/")


def test_a_path_list_may_hold_urls_and_must_be_whole(stored):
    path = stored("warc.paths", b"s3://bucket/a.warc.gz\r\n/b.warc.gz\n")
    assert open_pool(path).parts() == ["https://data.commoncrawl.org/b.warc.gz", "s3://bucket/a.warc.gz"]
    with pytest.raises(CurateError, match="is empty"):
        open_pool(stored("empty/warc.paths.gz", gzip.compress(b"\n"))).parts()
    with pytest.raises(CurateError, match=r"warc\.paths\.gz is damaged"):
        open_pool(stored("cut/warc.paths.gz", gzip.compress(b"a.warc.gz\n" * 99)[:-9])).parts()


def test_a_folder_of_archives_is_a_pool_and_its_path_list_adds_nothing(stored, tmp_path):
    stored("crawl/one.warc.wat.gz", WAT)
    stored("crawl/wat.paths.gz", gzip.compress(b"crawl/one.warc.wat.gz\n"))
    stored("crawl/more/two.warc.wat.gz", wat(PAGES_OF_TWO[0]))
    assert len(read(tmp_path / "crawl")) == 14
    stored("crawl/page.warc.gz", WARC)
    with pytest.raises(CurateError, match=r"several kinds \(warc, wat\)"):
        open_pool(str(tmp_path / "crawl"))
    assert len(read(f"warc(path={tmp_path}/crawl)")) == 12


def test_archives_are_read_from_other_stores():
    with fsspec.open("memory://crawl/one.warc.wat.gz", "wb") as file:
        file.write(WAT)
    assert read("memory://crawl/one.warc.wat.gz") == read("memory://crawl") == WHOLE


class Archives(SimpleHTTPRequestHandler):
    """Some archives answer at the second attempt, one breaks off every time, one is not there."""

    seen: ClassVar[Counter] = Counter()

    def do_GET(self):
        self.seen[self.path] += 1
        name = self.path.strip("/")
        if name == "wat.paths.gz":
            self._answer(gzip.compress(b"whole.wat.gz\nlate.wat.gz\nmissing.wat.gz\nbroken.wat.gz\n"))
        elif name == "late.wat.gz" and self.seen[self.path] % 2:
            self.send_error(503)
        elif name == "missing.wat.gz":
            self.send_error(404)
        else:
            self._answer(WAT, len(WAT) // 2 if name == "broken.wat.gz" else len(WAT))

    def _answer(self, body: bytes, sent: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])

    def do_HEAD(self):
        self.send_error(405)

    def log_message(self, *told):
        pass


@pytest.mark.slow
def test_archives_on_the_web_are_asked_again_and_those_that_fail_are_named(monkeypatch):
    monkeypatch.setattr(streams, "WAITS", (0.01, 0.01))
    with ThreadingHTTPServer(("127.0.0.1", 0), Archives) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        pool = open_pool(f"wat(path={url}/wat.paths.gz, base={url})")
        broken, late, missing, whole = pool.parts()
        for part in (whole, late):
            assert [row for table in pool.read(part) for row in rows_of(table)] == WHOLE
        with pytest.raises(BadShard, match=r"no such pool file: .*missing\.wat\.gz"):
            list(pool.read(missing))
        with pytest.raises(BadShard, match=r"broken\.wat\.gz is damaged after 0 rows: ContentLengthError"):
            list(pool.read(broken))
        assert streams.size_of(missing) == 0
        server.shutdown()


def test_an_archive_whose_host_does_not_answer_costs_itself_alone(stored, monkeypatch):
    monkeypatch.setattr(streams, "WAITS", ())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}/gone.wat.gz"
        pool = open_pool(stored("wat.paths", f"{gone}\nfile://{stored('whole.wat.gz', WAT)}\n".encode()))
        whole, lost = pool.parts()
        assert lost == gone
        assert streams.size_of(lost) == 0
        with pytest.raises(BadShard, match=r"gone\.wat\.gz cannot be read: .*Connect call failed"):
            list(pool.read(lost))
        assert [row for table in pool.read(whole) for row in rows_of(table)] == WHOLE


@pytest.mark.parametrize(("package", "kind"), [("fastwarc", "wat"), ("msgspec", "wat"), ("selectolax", "warc")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, kind):
    for module in [name for name in sys.modules if name.startswith(("curate.pools.wa", "curate.crawl", package))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CurateError, match=rf"'{kind}' needs the package {package}: pip install 'curate\[crawl\]'"):
        open_pool(f"a.{kind}.gz")


# harvest


@pytest.mark.slow
def test_harvest_takes_what_the_archives_hold_and_names_the_damaged_one(stored, tmp_path):
    queries = stored("queries.txt", b"text\nzebra\n3\n")
    other = json.dumps({"url": "http://z.test/1.jpg", "caption": "a zebra"}).encode()
    cut = WARC[: members(WARC)[-6] + 5]
    named = [stored("a.warc.wat.gz", WAT), stored("cut.warc.gz", cut), stored("plain.jsonl", other)]
    command = [sys.executable, "-m", "curate", "harvest", *named, "--queries", queries, "--no-download"]
    out = str(tmp_path / "dataset")
    done = subprocess.run([*command, "--out", out, "--engine", "local(workers=1)"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert f"{named[1]} is damaged after 8 rows" in done.stderr
    folder = Dataset.open(out).folder
    tables = [folder.read_table(name) for name in folder.names("candidates/*.parquet")]
    found = {(row["url"], row["text"], *row["queries"]) for table in tables for row in table.to_pylist()}
    texts = {(f"http://a.test/{n}.jpg", f"text {n}", *(("3",) if n == 3 else ()), "text") for n in range(6)}
    assert {(*row[:2], *sorted(row[2:])) for row in found} == {
        *texts, ("http://a.test/x.jpg", "x 3", "3"), ("http://z.test/1.jpg", "a zebra", "zebra"),
    }  # fmt: skip
