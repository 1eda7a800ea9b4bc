"""Fetching, apart from what both downloaders must hold (test_downloaders.py)."""

import random
import time
from types import SimpleNamespace

import pytest
from harvest_web import Page, nobody_at, picture, serving

from curate.harvest.fetch import loop as fetch_loop
from curate.harvest.fetch.fetcher import Fetcher, FetchError, is_public
from curate.harvest.fetch.transfer import READ, Room

PATIENT = {"timeout": 120, "deadline": 240, "allow_private": True}


@pytest.fixture
def web():
    with serving() as web:
        yield web


def fetch(*urls: str, **options) -> list[bytes | str]:
    """What each url brings: its body, or the reason why there is none."""
    with Fetcher(**PATIENT | options).fetch(urls) as fetched:
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


def test_a_dripping_server_is_left_at_the_deadline(web):
    assert why(f"{web.url}/drip", deadline=0.5) == "deadline"


def test_a_closed_port_a_missing_name_and_a_strange_url_have_names():
    with nobody_at() as port:
        assert why(f"http://127.0.0.1:{port}/x") == "connection refused"
    assert why("http://no-such-host.invalid/x", timeout=10) == "dns"
    assert why("http://[::1/x") == "bad url"
    assert why("http://a:99999/x") == "bad url"
    assert why("data:image/png;base64,AAAA") == "not http"


def test_public_addresses_are_not():
    assert is_public("8.8.8.8")
    assert is_public("2606:4700:4700::1111")


def test_a_slow_caller_stops_the_transfers_and_gets_every_body(web, monkeypatch):
    monkeypatch.setattr(fetch_loop, "WAITING", 150_000)  # less than two bodies: most transfers wait for room
    body = random.Random(0).randbytes(100_001)
    web.pages = {f"/large?{number}": Page(body) for number in range(40)}
    found = []
    patient = Fetcher(**PATIENT, per_host=16)
    with patient.fetch([web.url + path for path in web.pages]) as fetched:
        for _, result in fetched:
            found.append(result)
            time.sleep(0.005)
    assert found == [body] * 40


def test_a_transfer_that_stopped_is_not_asked_again_before_there_is_room_for_what_it_has():
    asked = []
    large, small = (SimpleNamespace(handle=SimpleNamespace(pause=asked.append)) for _ in range(2))
    room = Room(2 * READ)
    assert room.take(large, 2 * READ - 500)
    room.end(large, 2 * READ - 500, kept=True)
    assert not room.take(small, 1000)
    room.go_on()  # libcurl would bring the same piece at once, and for ever
    assert asked == []
    assert room.stops
    room.taken(READ)
    room.go_on()
    assert len(asked) == 1
    assert not room.stops
    assert room.take(small, 1000)
