"""What the web does to a downloader, one test for each: both downloaders must hold all of them.

Every downloader meets the whole table in one shard (`answers`); each test looks at its own row of the outcome.
"""

import base64
import contextlib
import datetime
import io
import json
import math
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from downloader_rows import rows, saved
from harvest_web import COLOURS, Page, Web, serving
from PIL import Image
from processes import Command

from curate import named, tar
from curate.dataset import Dataset
from curate.errors import CurateError
from curate.harvest import run
from curate.harvest.fetch import fetcher as fetch

NAMES = ["native", pytest.param("img2dataset", marks=pytest.mark.slow)]
IMAGES = rows()
MAX_BYTES = 4 << 20
OPTIONS = {"timeout": 120, "deadline": 240, "max_bytes": MAX_BYTES, "threads": 64, "min_image_size": 16,
           "allow_private": True}  # fmt: skip
TARGET = "/image.jpg"

# what follows the server's address -> the reason it fails for (a pattern), or None where the image comes
WEB = {
    # redirects
    "/to?/image.jpg": None,
    "/hops?5": None,
    "/hops?6": "too many redirects",
    "/loop": "too many redirects",
    "/to?file:///etc/hostname": "not http",
    "/to?FILE:///etc/hostname": "not http",
    "/to?ftp://127.0.0.1/x.jpg": "not http",
    "/to?data:image/gif;base64,R0lGODlhAQABAAAAACw=": "not http",
    "/to?gopher://127.0.0.1/x": "not http",
    "/to?javascript:alert(1)": "not http",
    "/nowhere": r"http 302|bad .*",
    # slow and endless
    "/endless": "too many bytes",
    "/huge": "too many bytes",
    "/short.jpg": "cut short",
    "/slow-but-sure": None,
    # how a url is written
    "/a b.jpg": None,
    "/ü/é.jpg?x=ñ": None,
    "/a%20b.jpg": None,
    "/comma,comma.jpg,w=3": None,
    '/quote".jpg': None,
    "/image.jpg#fragment": None,
    "/a|b^c`{d}.jpg": None,
    "/image.jpg\r\nX-Evil: 1": "bad url|not http|http 404",
    # statuses
    "/missing.jpg": "http 404",
    "/gone": "http 410",
    "/broken": "http 500",
    "/no-content": "http 204|empty",
}

# of servers that never come to an end, at a short deadline
NEVER = {"/drip": "deadline|too slow", "/drip-header": "deadline|too slow", "/hang": "deadline|timeout"}

# value of X-Robots-Tag (more than one header: after a newline) -> the directive that refuses us
ROBOTS = {
    "noai": "noai",
    "NoAI": "noai",
    "noimageai": "noimageai",
    "noindex": "noindex",
    "noimageindex": "noimageindex",
    "none": "none",
    "noml": "noml",
    "noindex, max-snippet:50": "noindex",
    "max-snippet:50, noindex": "noindex",
    "max-image-preview:none": None,
    "max-image-preview: none, noai": "noai",
    "unavailable_after: 25 Jun 2030 15:00:00 PST": None,
    "unavailable_after: 25 Jun 2030 15:00:00 PST, noai": "noai",
    "nofollow, noarchive": None,
    "all": None,
    "indexifembedded": None,
    "noaim": None,
    "curate: noai": "noai",
    "Curate: nofollow, noimageai": "noimageai",
    "img2dataset: noai": "noai",
    "otherbot: noai": None,
    "otherbot: noai, noindex": None,
    "otherbot: nofollow, curate: noai": "noai",
    "otherbot: noai, curate: nofollow": None,
    "otherbot: nofollow\nnoai": "noai",
    "otherbot: noindex\nnofollow": None,
    "nofollow\nnoindex": "noindex",
}


class Outcome(NamedTuple):
    """A row of the results' table, and what the tar holds of it."""

    row: dict[str, Any]
    jpeg: bytes | None
    text: str | None
    about: dict[str, Any] | None

    @property
    def reason(self) -> str | None:
        return self.row["error_message"]


def downloader(name: str, **options):
    """A downloader. Skips the test where its package is not installed, or not for this Python."""
    try:
        return named.load("harvest.downloaders", named.Spec(name, tuple(sorted((OPTIONS | options).items()))))
    except CurateError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise


def downloaded(worker, pairs: list[tuple[str, str]], folder: Path, **columns: pa.Array) -> list[Outcome]:
    """What became of (url, caption) pairs, in their order."""
    keys = [f"00000{number:04d}" for number in range(len(pairs))]
    urls, captions = zip(*pairs)
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"key": keys, "url": urls, "caption": captions, "uid": keys, **columns})
    path, results = worker.download("00000", table, str(folder))
    found = {row["key"]: row for row in results.to_pylist()}
    assert sorted(found) == keys
    with tar.opened(path) as view:
        samples = {
            sample.key: {kind: bytes(view[at.data : at.data + at.size]) for kind, at in sample.members.items()}
            for sample in tar.samples(view, "tar")
        }
    assert sorted(samples) == [key for key in keys if found[key]["status"] == "success"]
    return [_outcome(found[key], samples.get(key, {})) for key in keys]


def _outcome(row: dict, members: dict[str, bytes]) -> Outcome:
    if not members:
        assert row["error_message"]
        return Outcome(row, None, None, None)
    return Outcome(row, members["jpg"], members["txt"].decode(), json.loads(members["json"]))


def furnish(web: Web) -> None:
    """Put the table's pages on the web."""
    image = saved("JPEG")
    pages = {name: Page(row.body, row.headers, row.status) for name, row in IMAGES.items()}
    web.pages = {path_of(name): page for name, page in pages.items()}
    robots = {value: [("X-Robots-Tag", line) for line in value.split("\n")] for value in ROBOTS}
    web.pages |= {path_of(value): Page(image, tuple(headers)) for value, headers in robots.items()}
    web.pages |= {f"/hops?{left}": Page(b"", (("Location", f"/hops?{left - 1}"),), 301 + left % 2) for left in range(9)}
    for number, status in enumerate((301, 302, 303, 307, 308)):
        web.pages[f"/moved{number}"] = Page(b"", (("Location", TARGET),), status)
    web.pages |= {
        "/hops?0": Page(image),
        "/nowhere": Page(b"", (), 302),
        "/gone": Page(image, (), 410),
        "/broken": Page(image, (), 500),
        "/no-content": Page(b"", (), 204),
        "/tdm?1": Page(image, (("TDM-Reservation", "1"),)),
        "/tdm?0": Page(image, (("TDM-Reservation", "0"),)),
    }
    for path in (TARGET, "/a%20b.jpg", "/%C3%BC/%C3%A9.jpg?x=%C3%B1", "/comma,comma.jpg,w=3", "/quote%22.jpg",
                 "/thrice.jpg", "/a%7Cb%5Ec%60%7Bd%7D.jpg"):  # fmt: skip
        web.pages[path] = Page(image)


def path_of(name: str) -> str:
    return "/row/" + "".join(letter if letter.isalnum() else f"_{ord(letter):x}" for letter in name)


class Answers(NamedTuple):
    """One shard of everything."""

    web: Web
    outcomes: dict[str, Outcome]
    grown: float  # MB of memory at most


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def answers(name, tmp_path_factory):
    worker = downloader(name)
    with serving() as web:
        furnish(web)
        pairs = [(web.url + path_of(label), label) for label in [*IMAGES, *ROBOTS]]
        pairs += [(web.url + path, path) for path in WEB]
        pairs += [(f"{web.url}/thrice.jpg", text) for text in ("one", "two", "three")]
        pairs += [(f"{web.url}/tdm?{value}", f"tdm {value}") for value in "01"]
        pairs += [(f"{web.url}/moved{number}", f"moved {number}") for number in range(5)]
        pairs += [(web.url.replace("http", "HTTP", 1) + TARGET, "loud"), (f" {web.url}{TARGET}\n", "in blanks")]
        pairs += [(url, label) for label, url in _strange(tmp_path_factory.mktemp("local")).items()]
        before = _peak(reset=True)
        found = downloaded(worker, pairs, tmp_path_factory.mktemp(name))
        grown = _peak() - before
        yield Answers(web, {text: outcome for (_, text), outcome in zip(pairs, found)}, grown)


# what no downloader may follow, though an image lies behind the first five
STRANGE = ["file://LOCAL", "FILE://LOCAL", "file://localhost/LOCAL", "LOCAL", "data:image/gif;base64,DATA",
           "ftp://127.0.0.1/x.jpg", "javascript:alert(1)", "//127.0.0.1/x.jpg", "", "http://", "http:///x.jpg",
           "https://:80/x.jpg", "http://[::1/x.jpg", "http://a:99999/x.jpg", "http://a b/x.jpg",
           "http://\x00/x.jpg"]  # fmt: skip


def _strange(folder: Path) -> dict[str, str]:
    (folder / "image.jpg").write_bytes(saved("JPEG"))
    data = base64.b64encode(saved("GIF")).decode()
    return {label: label.replace("LOCAL", str(folder / "image.jpg")).replace("DATA", data) for label in STRANGE}


def _peak(reset: bool = False) -> float:
    """The most memory this process held since the last reset, MB; 0 where the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return 0.0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [("threads=0", "threads is a number above 0"), ("deadline=1e300", "a number above 0, at most 1e+12"),
     ("quality=101", "quality is from 1 to 100"), ("retries=-1", "retries is 0 or more"),
     ("user_agent=J\u00f6rg", "user_agent is one line of ASCII"), ("user_agent='a\\nb'", "one line of ASCII")],
)  # fmt: skip
def test_an_option_out_of_its_range_is_refused(name, options, message):
    with pytest.raises(CurateError, match=re.escape(message)):
        named.load("harvest.downloaders", f"{name}({options})")


@pytest.mark.parametrize("label", IMAGES)
def test_each_image_is_stored_as_a_viewer_shows_it_or_fails_by_name(answers, label):
    expected, found = IMAGES[label], answers.outcomes[label]
    if expected.reason:
        assert found.jpeg is None
        assert re.fullmatch(expected.reason, found.reason), found.reason
        assert found.row["status"] in ("failed_to_resize", "failed_to_download")
        return
    assert found.reason is None, found.reason
    pixels = np.asarray(Image.open(io.BytesIO(found.jpeg)).convert("RGB"), int)
    assert pixels.shape == expected.pixels.shape
    assert np.abs(pixels - expected.pixels).mean() < 4
    assert (found.row["height"], found.row["width"]) == pixels.shape[:2]
    assert (found.row["format"], found.row["animated"], found.row["alpha"]) == (
        expected.format, expected.animated, expected.alpha)  # fmt: skip
    assert found.about["format"] == expected.format


def test_servers_that_never_come_to_an_end_are_left(name, tmp_path):
    with serving() as web:
        found = downloaded(
            downloader(name, timeout=1, deadline=1.5), [(web.url + path, path) for path in NEVER], tmp_path
        )
    for outcome, expected in zip(found, NEVER.values(), strict=True):
        assert re.fullmatch(expected, outcome.reason), outcome.reason


def test_what_no_image_may_cost_is_bounded(answers):
    """8 bombs, an endless body, one of a stated 5 GB and one of gzip are among the rows."""
    assert answers.grown < 150
    assert answers.web.sent["/endless"] < 4 * MAX_BYTES  # with what lies in the sockets


@pytest.mark.parametrize("path", WEB)
def test_each_url_brings_its_image_or_fails_by_name(answers, path):
    expected, found = WEB[path], answers.outcomes[path]
    if expected:
        assert re.fullmatch(expected, found.reason or "success")
        assert found.row["status"] == "failed_to_download"
    else:
        assert found.reason is None, found.reason
        assert found.text == path


@pytest.mark.parametrize("label", ["loud", "in blanks", *(f"moved {number}" for number in range(5))])
def test_the_scheme_in_capitals_blanks_around_and_every_redirect_are_understood(answers, label):
    assert answers.outcomes[label].reason is None


@pytest.mark.parametrize("label", STRANGE)
def test_only_http_is_followed_and_what_is_no_url_says_so(answers, label):
    assert re.fullmatch("bad url|not http|dns", answers.outcomes[label].reason or "success")


def test_a_url_brings_no_header_of_its_own_and_its_fragment_stays_here(answers):
    for _, path, headers in answers.web.asked:
        assert "X-Evil" not in headers
        assert "#" not in path


@pytest.mark.parametrize("value", ROBOTS)
def test_x_robots_is_honoured_and_recorded(answers, value):
    refused = ROBOTS[value]
    assert answers.outcomes[value].reason == (refused and f"opted out: {refused}")


def test_a_tdm_reservation_is_honoured(answers):
    assert answers.outcomes["tdm 1"].reason == "opted out: tdm-reservation"
    assert answers.outcomes["tdm 0"].reason is None


def test_a_url_of_three_texts_is_fetched_once_and_keeps_them_all(answers):
    found = [answers.outcomes[text] for text in ("one", "two", "three")]
    assert [outcome.text for outcome in found] == ["one", "two", "three"]
    assert len({outcome.jpeg for outcome in found}) == 1
    assert answers.web.hits["/thrice.jpg"] == 1


def test_the_agent_says_who_asks(answers):
    assert len(answers.web.agents) == 1
    assert re.match(r"curate/\d.*", answers.web.agents.pop())


def test_robots_txt_is_not_asked_for_unless_told(answers):
    assert answers.web.hits["/robots.txt"] == 0


# other options


def test_robots_txt_is_asked_once_and_obeyed(name, tmp_path):
    rules = b"User-agent: other\nDisallow: /\n\nUser-agent: *\nDisallow: /private/\nAllow: /private/open.jpg\n"
    with serving() as web:
        web.pages = {path: Page(saved("JPEG")) for path in ("/a.jpg", "/private/b.jpg", "/private/open.jpg")}
        web.pages["/robots.txt"] = Page(rules, (("Content-Type", "text/plain"),))
        pairs = [(web.url + path, path) for path in ("/a.jpg", "/private/b.jpg", "/private/open.jpg")]
        found = downloaded(downloader(name, robots_txt=True), pairs, tmp_path)
        assert [outcome.reason for outcome in found] == [None, "opted out: robots.txt", None]
        assert web.hits["/robots.txt"] == 1
        assert web.hits["/private/b.jpg"] == 0


def test_a_site_without_robots_txt_forbids_nothing(name, tmp_path):
    with serving() as web:
        pairs = [web.pair(0), (f"{web.url}/to?/1.jpg", "redirected")]
        found = downloaded(downloader(name, robots_txt=True), pairs, tmp_path)
        assert [outcome.reason for outcome in found] == [None, None]


@pytest.mark.slow
def test_only_what_may_pass_is_tried_again_and_the_server_says_when(name, tmp_path):
    with serving() as web:
        image = saved("JPEG")
        web.pages = {
            "/noai": Page(image, (("X-Robots-Tag", "noai"),)),
            "/broken": Page(b"", (), 500),
            "/busy": [Page(b"", (("Retry-After", "1"),), 429), Page(image)],
            "/much-later": Page(b"", (("Retry-After", "100000"),), 429),
        }
        paths = ("/missing.html", "/noai", "/broken", "/busy", "/much-later", "/flaky.jpg")
        agent = "mine/1 (+mailto:me@mine.test)"
        worker = downloader(name, retries=2, user_agent=agent)
        pairs = [(web.url + path, path) for path in paths]
        pairs[4] = (pairs[4][0].replace("127.0.0.1", "localhost"), "")  # a host of its own: it may stop being asked
        found = downloaded(worker, pairs, tmp_path)
        reasons = {outcome.row["key"][-1]: outcome.reason for outcome in found}
        assert list(reasons.values()) == ["http 404", "opted out: noai", "http 500", None, "http 429", None]
        assert {path: web.hits[path] for path in paths} == {
            "/missing.html": 1, "/noai": 1, "/broken": 3, "/busy": 2, "/much-later": 1, "/flaky.jpg": 2}  # fmt: skip
        at = {path: [moment for moment, asked, _ in web.asked if asked == path] for path in paths}
        assert at["/busy"][1] - at["/busy"][0] > 0.9
        assert all(later - earlier > 0.1 for earlier, later in zip(at["/broken"], at["/broken"][1:]))
        assert web.agents == {agent}


@pytest.mark.slow
def test_one_host_is_asked_by_few_at_a_time(name, tmp_path):
    with serving() as web:
        web.delay = 0.05
        found = downloaded(downloader(name, per_host=3), [web.pair(index) for index in range(30)], tmp_path)
        assert not [outcome.reason for outcome in found if outcome.reason]
        assert web.most <= 3


def test_columns_that_json_cannot_hold_lose_no_row(name, tmp_path):
    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    with serving() as web:
        found = downloaded(
            downloader(name), [web.pair(index) for index in range(3)], tmp_path,
            seen=pa.array([moment, None, moment]), raw=pa.array([b"\xff\0", b"", None]),
            score=pa.array([float("nan"), float("inf"), 1.0]), day=pa.array([moment.date()] * 3),
            tags=pa.array([["a", None], [], None], pa.list_(pa.string())),
        )  # fmt: skip
    assert [outcome.reason for outcome in found] == [None] * 3
    assert "2026-01-02" in str(found[0].about["seen"])
    assert found[2].about["score"] == 1.0


# addresses

PRIVATE = ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "017700000001", "127.1", "0.0.0.0", "0", "10.0.0.1",
           "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "[::1]",
           "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]",
           "[fc00::1]", "user@127.0.0.1", "example.com@127.0.0.1"]  # fmt: skip
UNSURE = [
    "LOCALHOST.",
    "127.0.0.1.",
    "１２７.0.0.1",
    "127.0.0.1%2e",
    "127.0.0.1\\@example.com",
]  # some resolvers know them


def test_private_addresses_are_refused_however_they_are_written(name, tmp_path):
    with serving() as web:
        port = web.url.rsplit(":", 1)[1]
        pairs = [(f"http://{host}:{port}/1.jpg", host) for host in [*PRIVATE, *UNSURE]]
        found = downloaded(downloader(name, allow_private=False), pairs, tmp_path)
        reasons = {host: outcome.reason for (_, host), outcome in zip(pairs, found)}
        assert {host: reasons[host] for host in PRIVATE} == dict.fromkeys(PRIVATE, "blocked address")
        assert {reasons[host] for host in UNSURE} <= {"blocked address", "dns", "bad url"}
        assert not web.hits


def test_every_redirect_is_checked(name, tmp_path, monkeypatch):
    # 127.0.0.1 plays the open internet, all other addresses of this machine are private as ever
    really = fetch.is_public
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or really(address))
    private = ["127.0.0.2", "127.2", "0x7f000002", "2130706434", "[::1]", "[::ffff:127.0.0.2]", "0.0.0.0", "10.0.0.1",
               "169.254.169.254", "100.64.0.1"]  # fmt: skip
    with serving() as web:
        port = web.url.rsplit(":", 1)[1]
        hops = {host: f"http://{host}:{port}/2.jpg" for host in private} | {
            "two hops": "/to?http://127.0.0.2/2.jpg", "public": "/3.jpg"}  # fmt: skip
        web.pages = {f"/hop?{at}": Page(b"", (("Location", to),), 302) for at, to in enumerate(hops.values())}
        pairs = [(f"{web.url}/hop?{at}", text) for at, text in enumerate(hops)]
        found = downloaded(downloader(name, allow_private=False), pairs, tmp_path)
        assert {text: outcome.reason for (_, text), outcome in zip(pairs, found)} == {
            **dict.fromkeys([*private, "two hops"], "blocked address"), "public": None}  # fmt: skip
        assert web.hits["/2.jpg"] == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="certificates are made by openssl")
def test_https_is_verified_against_the_machines_authorities(name, tmp_path, monkeypatch):
    def certified(label: str, host: str) -> tuple[Path, ssl.SSLContext]:
        key, certificate = tmp_path / f"{label}.key", tmp_path / f"{label}.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
        more = ["-addext", f"subjectAltName=IP:{host}", "-keyout", key, "-out", certificate]
        subprocess.run([*command.split(), *more], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return certificate, context

    ours, trusted = certified("ours", "127.0.0.1")
    _, strange = certified("strange", "127.0.0.1")
    other, elsewhere = certified("other", "192.0.2.1")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(ours.read_bytes() + other.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with serving(trusted) as known, serving(strange) as unknown, serving(elsewhere) as misnamed:
        pairs = [web.pair(7) for web in (known, unknown, misnamed)]
        reasons = [outcome.reason for outcome in downloaded(downloader(name), pairs, tmp_path / "out")]
        assert reasons == [None, "tls", "tls"]
        assert (unknown.asked, misnamed.asked) == ([], [])


# a resolver that plays the internet: `rebound.test` is public when it is first looked up and private ever after
RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
typedef int (*look_up)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
static int times;
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    look_up real = (look_up)dlsym(RTLD_NEXT, "getaddrinfo");
    if (host && !strcmp(host, "rebound.test")) host = times++ ? "127.0.0.2" : "127.0.0.1";
    if (host && !strcmp(host, "private.test")) host = "127.0.0.2";
    if (host && !strcmp(host, "xn--bcher-kva.test")) host = "127.0.0.1";
    return real(host, port, hints, found);
}
"""
WITH_RESOLVER = """
import json, sys
from curate.harvest.fetch import fetcher as fetch
from pathlib import Path
from test_downloaders import downloaded, downloader
really = fetch.is_public
fetch.is_public = lambda address: address == "127.0.0.1" or really(address)
name, folder, *urls = sys.argv[1:]
found = []
for number, url in enumerate(urls):  # one shard after the other
    worker = downloader(name, allow_private=False, retries=0)
    found += downloaded(worker, [(url, url)], Path(folder) / str(number))
print(json.dumps([outcome.reason for outcome in found]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="the resolver is played by a C library")
def test_a_name_that_changes_between_two_looks_dials_nothing_private(name, tmp_path):
    downloader(name)
    (tmp_path / "resolver.c").write_text(RESOLVER)
    library = tmp_path / "resolver.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "resolver.c", "-ldl"], check=True)
    with serving() as web:
        port = web.url.rsplit(":", 1)[1]
        paths = ("rebound.test:{}/1.jpg", "rebound.test:{}/2.jpg", "private.test:{}/3.jpg", "bücher.test:{}/4.jpg")
        urls = ["http://" + path.format(port) for path in paths]
        done = subprocess.run(
            [sys.executable, "-c", WITH_RESOLVER, name, str(tmp_path), *urls], capture_output=True, text=True,
            env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        first, second, private, idn = json.loads(done.stdout.splitlines()[-1])
        # the address that was checked is the one that is dialled: nothing else would have reached the server
        assert first is None
        assert second in (None, "blocked address")
        assert (private, idn) == ("blocked address", None)
        assert web.hits["/1.jpg"] == 1
        assert web.hits["/3.jpg"] == 0
        assert any(headers["Host"] == f"xn--bcher-kva.test:{port}" for _, _, headers in web.asked)


# the same dataset again


@pytest.mark.slow
def test_another_list_or_shard_size_is_refused_and_dead_links_alone_fail(name, tmp_path):
    downloader(name)
    (tmp_path / "queries.txt").write_text("\n".join(COLOURS))

    def harvested(pool: str, to: str, pairs: list[tuple[str, str]], shard_size: int = 6) -> Dataset:
        urls, texts = zip(*pairs)
        pq.write_table(pa.table({"url": urls, "caption": texts}), tmp_path / pool)
        return run(Dataset.create(str(tmp_path / to)), [str(tmp_path / pool)], str(tmp_path / "queries.txt"),
                   downloader=name, allow_private=True, shard_size=shard_size, engine="local(workers=1)")  # fmt: skip

    with serving() as web:
        pairs = [web.pair(index) for index in range(12)]
        harvested("pool.parquet", "out", pairs)
        before, asked = finished(tmp_path / "out"), len(web.asked)
        with pytest.raises(CurateError, match=r"other options \(pools\).*choose another --out"):
            harvested("other.parquet", "out", pairs[:6])
        with pytest.raises(CurateError, match="--shard-size"):
            harvested("pool.parquet", "out", pairs, shard_size=12)
        assert finished(tmp_path / "out") == before
        assert len(web.asked) == asked
        dead = [(f"{web.url}/missing{index}.html", text) for index, (_, text) in enumerate(pairs)]
        with pytest.raises(CurateError, match="none of 12 images"):
            harvested("dead.parquet", "dead", dead)


# processes that end in the middle of a shard

COUNT = 24


def harvesting(name: str, folder: Path, out: Path, *options: str) -> list[str]:
    return ["harvest", str(folder / "pool.parquet"), "--queries", str(folder / "queries.txt"), "--out", str(out),
            "--downloader", f"{name}(threads=2, timeout=300, deadline=300)", "--allow-private", "--shard-size", "8",
            "--engine", "local(workers=2)", "-q", "--json", *options]  # fmt: skip


@contextlib.contextmanager
def in_the_middle(web: Web, start: Callable[[], Command]):
    """A command while it downloads: some images have come, no shard is finished."""
    web.let(3)
    process = start()
    process.wait_for(lambda: not web.turns)
    try:
        yield process
    finally:
        web.let(math.inf)


def finished(out: Path) -> dict[str, bytes]:
    """Every file that has its final name in shards/, but for the times; each of them must be whole."""
    files = {path.name: path.read_bytes() for path in sorted((out / "shards").glob("[0-9s]*"))}
    for shard_name, content in files.items():
        if shard_name.endswith(".tar"):
            assert list(tar.samples(memoryview(content), shard_name))
        elif shard_name.endswith(".parquet"):
            assert len(pq.read_table(io.BytesIO(content)))
        else:
            json.loads(content)
    return {shard_name: content for shard_name, content in files.items() if not shard_name.endswith("_stats.json")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_whatever_is_killed_in_the_middle_of_a_shard_loses_nothing(name, start, tmp_path):
    downloader(name)
    (tmp_path / "queries.txt").write_text("\n".join(COLOURS))
    out = tmp_path / "out"
    with serving() as web:
        urls, texts = zip(*(web.pair(index) for index in range(COUNT)))
        pq.write_table(pa.table({"url": urls, "caption": texts}), tmp_path / "pool.parquet")
        command = harvesting(name, tmp_path, out)

        with in_the_middle(web, lambda: start(*command)) as process:  # Ctrl-C: the terminal tells every process
            process.send_all(signal.SIGINT)
            code, _, errors = process.ended()
        assert code != 0
        assert "Traceback" not in errors, errors
        finished(out)

        with in_the_middle(web, lambda: start(*command)) as process:
            process.send_all(signal.SIGKILL)
            process.killed()
        finished(out)

        with in_the_middle(web, lambda: start(*command)) as process:
            os.kill(process.worker(), signal.SIGKILL)
            web.let(math.inf)
            code, said, errors = process.ended()
        assert code == 0, errors
        assert json.loads(said)["downloaded"] == COUNT

        calm = tmp_path / "calm"
        assert start(*harvesting(name, tmp_path, calm), "--engine", "local(workers=1)").ended()[0] == 0
    assert finished(out) == finished(calm)
    table = pa.concat_tables([shard.rows() for shard in Dataset.open(str(out)).shards])
    assert sorted(table["url"].to_pylist()) == sorted(urls)
    assert not [path for path in out.rglob(".*") if path.is_file()]
