"""Many urls of many servers: who waits for whom, who is asked again, and who is left alone."""

import contextlib
import datetime
import errno
import functools
import ipaddress
import itertools
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import format_datetime

import pytest
from harvest_web import Page, Web, nobody_at, picture, serving

from curate.errors import CurateError
from curate.harvest.fetch import fetcher as fetch
from curate.harvest.fetch import loop as fetch_loop
from curate.harvest.fetch import names, robots, servers, transfer
from curate.harvest.fetch.fetcher import Fetcher, FetchError
from curate.harvest.fetch.transfer import seconds_of
from curate.harvest.fetch.urls import parsed

x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

PATIENT = {"timeout": 120, "deadline": 240, "allow_private": True}


@pytest.fixture
def web():
    with serving() as web:
        yield web


@pytest.fixture
def other():
    with serving() as web:
        yield web


@pytest.fixture
def closed():
    with nobody_at() as port:
        yield f"http://127.0.0.1:{port}"


def come(*urls: str, **options) -> Iterator[tuple[str, bytes | str]]:
    """Each url and what it brings, a body or a reason, as they come."""
    with Fetcher(**PATIENT | options).fetch(urls) as fetched:
        for url, result in fetched:
            yield url, result.reason if isinstance(result, FetchError) else result


def results(*urls: str, **options) -> list[bytes | str]:
    found = dict(come(*urls, **options))
    return [found[url] for url in urls]


def images(web: Web, count: int) -> dict[str, bytes]:
    return {f"{web.url}/{number}.jpg": picture(number) for number in range(count)}


# servers


def test_a_slow_server_does_not_hold_up_another(web, other):
    web.let(0)
    slow, quick = images(web, 8), images(other, 8)
    coming = come(*slow, *quick, per_host=2, threads=4)
    assert dict(itertools.islice(coming, 8)) == quick
    web.let(math.inf)
    assert dict(coming) == slow
    assert web.most == 2


def test_a_server_that_asks_to_be_left_alone_is_while_others_go_on(web, other):
    web.pages = {f"/{number}": Page(b"", (("Retry-After", "3600"),), 429) for number in range(20)}
    urls = [web.url + path for path in web.pages]
    with contextlib.closing(come(*urls, *images(other, 20), per_host=2, deadline=7200)) as coming:
        assert dict(itertools.islice(coming, 20)) == images(other, 20)


@pytest.mark.slow
def test_a_server_is_left_alone_for_as_long_as_it_asks(web):
    busy, image = Page(b"", (("Retry-After", "1"),), 429), Page(picture(1))
    web.pages = {f"/{number}": [busy, image] if number < 2 else image for number in range(20)}
    web.let(0)
    coming = come(*(web.url + path for path in web.pages), per_host=2)
    answering = threading.Thread(target=lambda: (web.wait_for(2), web.let(math.inf)))
    answering.start()
    assert [result for _, result in coming] == [picture(1)] * 20
    answering.join()
    # the two that were under way, and then none until the second is over
    moments = [moment for moment, *_ in web.asked]
    assert len(moments) == 22
    assert moments[2] - moments[1] >= 1


def test_a_server_that_wants_more_time_than_there_is_gets_no_more_requests(web):
    web.pages = {f"/{number}": Page(b"", (("Retry-After", "3600"),), 503) for number in range(30)}
    assert set(results(*(web.url + path for path in web.pages), per_host=1)) == {"http 503"}
    assert len(web.asked) == 1


@pytest.mark.parametrize("answer", [429, 503])
def test_a_server_that_never_answers_is_given_up(web, answer):
    web.pages = {f"/{number}": Page(b"", (), answer) for number in range(100)}
    assert set(results(*(web.url + path for path in web.pages), retries=0)) == {f"http {answer}"}
    assert len(web.asked) <= servers.GIVE_UP + 8


def test_a_server_that_is_not_there_is_not(closed):
    assert set(results(*(f"{closed}/{number}" for number in range(100)), retries=0)) == {"connection refused"}


def test_servers_that_say_nothing_are_left():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/{number}" for number in range(12)]
        assert set(results(*urls, timeout=0.4, retries=0, per_host=12)) == {"timeout"}


@pytest.mark.parametrize(("per_host", "asked"), [(8, 8), (40, fetch_loop.FIRST)])
def test_a_shard_begins_with_few_urls(per_host, asked):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}/{number}" for number in range(50)]
        with Fetcher(**PATIENT, per_host=per_host).fetch(urls):
            heard = [silent.accept() for _ in range(asked)]
            silent.settimeout(0.5)
            with pytest.raises(TimeoutError):
                silent.accept()
    assert len(heard) == asked


def test_a_server_with_failures_and_answers_is_not_given_up(web):
    web.pages = {f"/{number}": Page(b"", (), 500 if number % 2 else 404) for number in range(60)}
    results(*(web.url + path for path in web.pages), retries=0)
    assert len(web.asked) == 60


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("7", 7), ("soon", 0), ("-3", 0), ("1.5", 0), ("", 0), ("9" * 30, 1e30), ("Mon, 99 Foo 2020", 0)],
)
def test_retry_after_is_read(text, seconds):
    assert seconds_of(text) == pytest.approx(seconds)


def test_retry_after_may_be_a_date():
    now = functools.partial(datetime.datetime.now, datetime.UTC)
    later = (now() + datetime.timedelta(seconds=90)).replace(microsecond=0)
    most = (later - now()).total_seconds()
    found = seconds_of(format_datetime(later, usegmt=True))
    assert (later - now()).total_seconds() <= found <= most
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0


# names


def played(monkeypatch, look_up):
    """Let `look_up(host)` answer for the names of .test."""
    really = socket.getaddrinfo

    def getaddrinfo(host, *args, **options):
        return really(look_up(host) if host.endswith(".test") else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_names_that_nobody_answers_for_hold_up_no_other(web, monkeypatch):
    tested = threading.Event()

    def look_up(host):
        if host.startswith("slow"):
            tested.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return "127.0.0.1"

    played(monkeypatch, look_up)
    port = web.url.rsplit(":", 1)[1]
    slow = [f"http://slow{number}.test/x" for number in range(names.LOOKUPS - 2)]
    quick = [f"http://quick{number}.test:{port}/{number}.jpg" for number in range(20)]
    with contextlib.closing(come(*slow, *quick)) as coming:
        assert dict(itertools.islice(coming, 20)) == {url: picture(number) for number, url in enumerate(quick)}
    assert set(results(*slow, timeout=0.3, retries=0)) == {"dns"}
    tested.set()


def test_a_name_is_looked_up_once_and_what_was_checked_is_dialled(web, monkeypatch):
    asked = []

    def look_up(host):
        asked.append(host)
        return "127.0.0.1" if asked.count(host) == 1 else "127.0.0.2"

    played(monkeypatch, look_up)
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    port = web.url.rsplit(":", 1)[1]
    urls = [f"http://rebound.test:{port}/{number}.jpg" for number in range(20)]
    assert results(*urls, allow_private=False) == [picture(number) for number in range(20)]
    assert asked == ["rebound.test"]
    assert web.asked[0][2]["Host"] == f"rebound.test:{port}"


def test_an_address_is_checked_again_when_it_is_dialled(web, monkeypatch):
    answers = [True, False]
    monkeypatch.setattr(fetch, "is_public", lambda address: answers.pop(0))
    assert results(f"{web.url}/1.jpg", allow_private=False) == ["blocked address"]
    assert not web.hits
    assert not answers


def test_a_name_server_that_had_a_bad_moment_is_asked_again(web, monkeypatch):
    asked = []

    def look_up(host):
        asked.append(host)
        if host == "again.test" and len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if host == "none.test":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return "127.0.0.1"

    played(monkeypatch, look_up)
    monkeypatch.setattr(fetch_loop, "BACKOFF", 0.1)
    port = web.url.rsplit(":", 1)[1]
    assert results(f"http://again.test:{port}/1.jpg") == [picture(1)]
    assert results(f"http://none.test:{port}/1.jpg") == ["dns"]
    assert asked == ["again.test", "again.test", "none.test"]


# robots.txt


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (200, (), "opted out: robots.txt"),
        (200, (("X-Robots-Tag", "noindex"),), "opted out: robots.txt"),  # of the file itself, as many send it
        (404, (), None),
        (403, (), None),
        (500, (), "opted out: robots.txt"),
        (302, (("Location", "/elsewhere"),), "opted out: robots.txt"),
        (302, (("Location", "/robots.txt"),), None),
    ],
)
def test_robots_txt_that_cannot_be_read_forbids_all_and_one_that_is_not_there_nothing(web, status, headers, reason):
    rules = b"User-agent: *\nDisallow: /1.jpg$\n"
    web.pages = {"/robots.txt": Page(rules if status == 200 else b"", headers, status), "/elsewhere": Page(rules)}
    found = results(f"{web.url}/1.jpg", f"{web.url}/2.jpg", f"{web.url}/1.jpg?x", robots_txt=True, retries=0)
    everything = reason if status == 500 else None
    assert found == [reason or picture(1), everything or picture(2), everything or picture(1)]
    assert web.hits["/1.jpg"] == (0 if status == 500 else 1 if reason else 2)


def test_a_server_that_is_not_there_fails_for_that_not_for_its_robots_txt(closed):
    assert results(f"{closed}/1.jpg", robots_txt=True, retries=0) == ["connection refused"]


def test_each_hop_obeys_the_robots_txt_of_its_server(web, other):
    other.pages["/robots.txt"] = Page(b"User-agent: *\nDisallow: /\n")
    web.pages["/hop"] = Page(b"", (("Location", f"{other.url}/1.jpg"),), 302)
    assert results(f"{web.url}/hop", robots_txt=True) == ["opted out: robots.txt"]
    assert not other.hits["/1.jpg"]


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("User-agent: *\nDisallow: /", False),
        ("User-agent: *\nDisallow: /\nAllow: /a/b", True),  # the longest match counts, not the first
        ("User-agent: *\nAllow: /a\nDisallow: /a/*.jpg$", False),
        ("User-agent: *\nDisallow: /\n\nUser-agent: curate\nDisallow: /c", True),
        ("User-agent: curate\nDisallow: /", False),
        ("User-agent: Curate/2\nDisallow: /", False),
        ("User-agent: img2dataset\nDisallow: /", False),
        ("User-agent: img2dataset\nDisallow: /\n\nUser-agent: curate\nAllow: /", False),
        ("User-agent: accurate\nDisallow: /", True),
        ("\ufeffUser-agent: *\nDisallow: /", False),
        ("User-agent: *\r\nDisallow: /a # why\r\n", False),
        ("<html>not found</html>", True),
        ("User-agent: *\nDisallow: /" + "*a" * 500 + "*b", True),
    ],
)
def test_robots_txt_is_read(text, allowed):
    assert robots.rules(text.encode())("http://h/a/b.jpg" + "a" * 2000 * ("*a" in text)) == allowed
    assert robots.rules(text.encode() + b"\xff\xfe\n") is not None


def test_of_a_long_robots_txt_the_first_500_kb_are_read(web):
    web.pages["/robots.txt"] = Page(b"User-agent: *\nDisallow: /1.jpg\n" + b"#" * (1 << 20) + b"\nDisallow: /2.jpg\n")
    found = results(f"{web.url}/1.jpg", f"{web.url}/2.jpg", robots_txt=True)
    assert found == ["opted out: robots.txt", picture(2)]


# TLS


def certificate(folder, name: str, *, by=None, host: str | None = None):
    """(key, certificate) of an authority, or of a host that one vouches for; both are written to `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by[1].subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    if host:
        ip = x509.IPAddress(ipaddress.ip_address(host))
        built = built.add_extension(x509.SubjectAlternativeName([ip]), critical=False)
    signed = built.sign(by[0] if by else key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(private)
    return key, signed


def secure(folder, name: str):
    """A web over https with a certificate of `folder`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return serving(context)


def test_https_is_verified_name_and_authority(tmp_path, monkeypatch, web):
    authority = certificate(tmp_path, "authority")
    certificate(tmp_path, "good", by=authority, host="127.0.0.1")
    certificate(tmp_path, "wrong-name", by=authority, host="127.0.0.9")
    certificate(tmp_path, "self-signed", host="127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with secure(tmp_path, "good") as good:
        web.pages["/up"] = Page(b"", (("Location", f"{good.url}/2.jpg"),), 301)
        assert results(f"{good.url}/1.jpg", f"{web.url}/up", f"{good.url}/to?file:///etc/hosts") == [
            picture(1), picture(2), "not http"]  # fmt: skip
    for name in ("wrong-name", "self-signed"):
        with secure(tmp_path, name) as bad:
            assert results(f"{bad.url}/1.jpg") == ["tls"]
            assert not bad.hits
    assert results(web.url.replace("http", "https") + "/1.jpg") == ["tls"]


def test_a_machine_without_certificates_trusts_those_of_certifi(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert transfer.authorities() == transfer.certifi.where()


# this machine


def test_what_breaks_in_the_other_thread_is_raised_here(web, monkeypatch):
    def broken(self):
        raise ZeroDivisionError

    monkeypatch.setattr(servers.Servers, "ready", broken)
    with pytest.raises(ZeroDivisionError), Fetcher(**PATIENT).fetch([f"{web.url}/1.jpg"]) as fetched:
        next(fetched)


def test_leaving_early_leaves_nothing_behind(web):
    before = set(threading.enumerate())
    with Fetcher(**PATIENT).fetch([f"{web.url}/1.jpg", f"{web.url}/hang", f"{web.url}/drip"]) as fetched:
        assert next(fetched)[1] == picture(1)
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("curate"):
            thread.join()


def test_a_machine_out_of_sockets_says_so(web, monkeypatch):
    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    fetching = Fetcher(**PATIENT).fetch([f"{web.url}/1.jpg"])
    monkeypatch.setattr(transfer.socket, "socket", full)
    with pytest.raises(CurateError, match="Too many open files; use fewer threads, or raise the limit"), fetching:
        next(fetching)


def test_a_proxy_of_the_environment_is_not_asked(web, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert results(f"{web.url}/1.jpg") == [picture(1)]


def test_large_bodies_are_bounded_together(web, monkeypatch):
    monkeypatch.setattr(fetch_loop, "WAITING", 1 << 20)
    web.pages = {f"/{number}": Page(bytes(700_000)) for number in range(12)}
    most = 0
    with Fetcher(**PATIENT).fetch([web.url + path for path in web.pages]) as fetched:
        for _, result in fetched:
            assert len(result) == 700_000
            time.sleep(0.02)  # so that there is something to wait for room
            most = max(most, fetched._room.held)
    assert most < (1 << 20) + 700_000


# urls


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("HTTP://Example.COM/A b?q=ü#x", "http://example.com/A%20b?q=%C3%BC"),
        ("https://h:443/", "https://h/"),
        ("http://h:443/", "http://h:443/"),
        ("http://user:secret@h/", "http://h/"),
        ("http://h?x", "http://h/?x"),
        ("http://h\\a\\b?c\\d", "http://h/a/b?c%5Cd"),
        ("http://faß.de/", "http://xn--fa-hia.de/"),
        ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://中文。中国/", "http://xn--fiq228c.xn--fiqs8s/"),
        ("http://my_host.example/", "http://my_host.example/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
    ],
)
def test_a_url_is_asked_for_as_browsers_do(text, asked):
    assert str(parsed(text)) == asked


@pytest.mark.parametrize("text", ["http://h/\ud800", f"http://{'a' * 64}.de/", "http://h:0/",
                                  f"http://{'ü' * 60}.de/", "http://a%41.de/", "http://[fe80::1%25eth0]/"])  # fmt: skip
def test_a_url_that_nobody_can_ask_for_is_bad(text):
    with pytest.raises(FetchError, match="bad url"):
        parsed(text)
