"""Fetching from a web that cannot be trusted."""

import socket
import time

import pytest
from harvest_web import picture, serving

from curate.harvest.fetch import Fetcher, FetchError, is_public

QUICK = {"timeout": 0.5, "deadline": 0.8, "allow_private": True}


@pytest.fixture
def web():
    with serving() as web:
        yield web


def fetch(*urls: str, **options) -> list[bytes | str]:
    """What each url brings: its body, or the reason why there is none."""
    with Fetcher(**QUICK | options).fetch(urls) as fetched:
        found = dict(fetched)
    assert set(found) == set(urls)
    return [result.reason if isinstance(result, FetchError) else result for result in map(found.get, urls)]


def why(url: str, **options) -> str:
    """The reason why a url brings nothing."""
    (result,) = fetch(url, **options)
    assert isinstance(result, str)
    return result


def test_an_image_comes_back_as_it_was_sent_and_the_agent_says_who_asks(web):
    assert fetch(f"{web.url}/7.jpg") == [picture(7)]
    assert all(agent.startswith("curate/") for agent in web.agents)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/404.jpg", "http 404"),
        ("/short.jpg", "cut short"),
        ("/drip", "deadline"),
        ("/drip-header", "deadline"),
        ("/huge", "too many bytes"),
        ("/loop", "too many redirects"),
        ("/to?file:///etc/passwd", "not http"),
        ("/to?ftp://127.0.0.1/x", "not http"),
        ("/empty", "empty"),
    ],
)
def test_each_failure_has_a_name(web, path, reason):
    path = path if path != "/404.jpg" else "/nothing-here.jpg"
    assert why(web.url + path) == reason


def test_an_endless_body_and_an_inflating_one_stop_at_the_byte_limit(web):
    assert why(f"{web.url}/endless", max_bytes=1 << 20, deadline=5) == "too many bytes"
    assert why(f"{web.url}/bomb", max_bytes=1 << 20) == "too many bytes"


def test_a_dripping_server_is_left_at_the_deadline(web):
    start = time.monotonic()
    assert why(f"{web.url}/drip", timeout=10, deadline=0.5) == "deadline"
    assert time.monotonic() - start < 1.5


def test_a_compressed_body_is_inflated(web):
    assert fetch(f"{web.url}/gzipped.jpg") == [picture(3)]


def test_redirects_are_followed(web):
    assert fetch(f"{web.url}/to?/9.jpg") == [picture(9)]


def test_spaces_and_letters_beyond_ascii_are_encoded_and_what_is_encoded_stays(web):
    why(f"{web.url}/a b/ü%20.jpg?x=é y")
    assert web.hits["/a%20b/%C3%BC%20.jpg"] == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("noai", "opted out: noai"),
        ("none", "opted out: none"),
        ("max-snippet:50,_noindex", "opted out: noindex"),
        ("curate:_noimageai", "opted out: noimageai"),
        ("otherbot:_noai,_nofollow", None),
        ("unavailable_after:_1_Jan_2020", None),
        ("nofollow", None),
    ],
)
def test_the_robots_header_is_honoured(web, value, reason):
    if reason:
        assert why(f"{web.url}/optout?{value}") == reason
    else:
        assert fetch(f"{web.url}/optout?{value}") == [picture(4)]


def test_only_what_may_pass_is_tried_again(web):
    assert why(f"{web.url}/flaky.jpg", retries=0) == "http 503"
    web.hits.clear()
    assert fetch(f"{web.url}/flaky.jpg", retries=1, deadline=5) == [picture(5)]
    why(f"{web.url}/nothing.jpg", retries=2)
    assert web.hits["/nothing.jpg"] == 1


def test_a_closed_port_a_missing_name_and_a_strange_url_have_names():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert why(f"http://127.0.0.1:{port}/x") == "connection refused"
    assert why("http://no-such-host.invalid/x", deadline=10) == "dns"
    assert why("http://[::1/x") == "bad url"
    assert why("http://a:99999/x") == "bad url"
    assert why("data:image/png;base64,AAAA") == "not http"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "0.0.0.0", "10.0.0.1", "169.254.169.254",
     "192.168.1.1", "100.64.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1]"],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_written(host):
    assert why(f"http://{host}/x.jpg", allow_private=False) == "blocked address"


def test_public_addresses_are_not():
    assert is_public("8.8.8.8")
    assert is_public("2606:4700:4700::1111")
