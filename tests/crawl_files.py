"""WAT and WARC files as Common Crawl writes them: a gzip member a record, three records a page."""

import io
import json

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

HTML = [("Content-Type", "text/html; charset=UTF-8")]


def image(url, **others) -> dict:
    return {"path": "IMG@/src", "url": url, **others}


def html_metadata(links, head=None) -> dict:
    return {"Head": {"Title": "A page", "Metas": [{"name": "robots", "content": "all"}]} | (head or {}), "Links": links}


def described(kind: str, url: str, payload: dict) -> dict:
    """The JSON of one record: where it lies, and what was found in it."""
    return {
        "Container": {"Filename": "CC-MAIN-00000.warc.gz", "Compressed": True, "Offset": "476"},
        "Envelope": {
            "Payload-Metadata": {"Actual-Content-Type": f"application/http; msgtype={kind}", **payload},
            "Format": "WARC",
            "WARC-Header-Metadata": {"WARC-Type": kind, "WARC-Target-URI": url, "WARC-Date": "2024-02-20T23:00:00Z"},
        },
    }


def wat(*pages) -> bytes:
    """Each page is (url, links), (url, links, head), or the raw bytes of one record's body."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    writer.write_record(writer.create_warcinfo_record("CC-MAIN.warc.wat.gz", {"Software-Info": "ia-web-commons"}))

    def write(body: bytes, url: str) -> None:
        kind = "application/json"
        record = writer.create_warc_record(url, "metadata", payload=io.BytesIO(body), warc_content_type=kind)
        writer.write_record(record)

    for page in pages:
        if isinstance(page, bytes):
            write(page, "http://raw.test/")
            continue
        url, *found = page
        request = {"HTTP-Request-Metadata": {"Headers": {"Host": "a.test"}}}
        response = {"HTTP-Response-Metadata": {"Headers": {}, "HTML-Metadata": html_metadata(*found)}}
        for kind, payload in (("request", request), ("response", response), ("metadata", {})):
            write(json.dumps(described(kind, url, payload), ensure_ascii=False).encode(), url)
    return out.getvalue()


def warc(*pages, compressed: bool = True) -> bytes:
    """Each page is (url, html) or (url, html, HTTP headers) or (url, html, HTTP headers, status)."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=compressed)
    writer.write_record(writer.create_warcinfo_record("CC-MAIN.warc.gz", {"software": "Nutch"}))
    for url, html, *http in pages:
        headers, status = [*http, *(HTML, "200 OK")[len(http) :]]
        asked = StatusAndHeaders("GET / HTTP/1.1", [("Host", "a.test")], is_http_request=True)
        writer.write_record(writer.create_warc_record(url, "request", http_headers=asked))
        answer = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
        body = io.BytesIO(html if isinstance(html, bytes) else html.encode())
        writer.write_record(writer.create_warc_record(url, "response", payload=body, http_headers=answer))
        kind = "application/warc-fields"
        about = writer.create_warc_record(
            url, "metadata", payload=io.BytesIO(b"fetchTimeMs: 1\r\n"), warc_content_type=kind
        )
        writer.write_record(about)
    return out.getvalue()
