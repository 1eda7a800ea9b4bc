"""Pools: every kind gives the same pairs, and a damaged file gives those before the damage and its name."""

import bz2
import csv
import gzip
import io
import json
import lzma
import socket
from functools import partial

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import BadShard, CurateError
from curate.harvest import queries
from curate.pools import open_pool
from curate.storage import streams

PAIRS = [("http://a.test/1.jpg", "a plain text"), ("http://a.test/2.jpg", 'with "quotes", commas'), ("", "no url"),
         ("http://a.test/ü.jpg", "日本 🐈"), ("http://a.test/5.jpg", "")]  # fmt: skip


def as_parquet(rows, url="url", caption="caption"):
    buffer = io.BytesIO()
    columns = {"id": range(len(rows)), url: [row[0] for row in rows], caption: [row[1] for row in rows]}
    pq.write_table(pa.table(columns), buffer, row_group_size=100)
    return buffer.getvalue()


def as_csv(rows, url="url", caption="caption", **style):
    text = io.StringIO()
    writer = csv.writer(text, **style)
    writer.writerows([("id", url, caption), *((i, *row) for i, row in enumerate(rows))])
    return text.getvalue().encode()


def as_tsv(rows, url="url", caption="caption"):
    lines = [("id", url, caption), *((str(i), *row) for i, row in enumerate(rows))]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def as_jsonl(rows, url="url", caption="caption"):
    return "".join(json.dumps({"id": i, url: row[0], caption: row[1]}) + "\n" for i, row in enumerate(rows)).encode()


KINDS = {"parquet": as_parquet, "csv": as_csv, "tsv": as_tsv, "jsonl": as_jsonl}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def read(text: str) -> list[tuple[str, str]]:
    pool = open_pool(str(text))
    tables = [table for part in pool.parts() for table in pool.read(part)]
    return [pair for table in tables for pair in zip(*table.to_pydict().values(), strict=True)]


def read_damaged(path) -> tuple[list[tuple[str, str]], str]:
    pool, found = open_pool(str(path)), []
    parts = iter(pool.read(pool.parts()[0]))

    def drain():
        for table in parts:
            found.extend(zip(*table.to_pydict().values(), strict=True))

    with pytest.raises(BadShard) as failure:
        drain()
    return found, str(failure.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_pairs(kind, tmp_path):
    (tmp_path / f"pool.{kind}").write_bytes(KINDS[kind](PAIRS))
    assert read(tmp_path / f"pool.{kind}") == PAIRS


@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_names_of_columns_are_known_and_others_are_told(kind, tmp_path):
    path = tmp_path / f"pool.{kind}"
    path.write_bytes(KINDS[kind](PAIRS, "URL", "TEXT"))
    assert read(path) == PAIRS
    path.write_bytes(KINDS[kind](PAIRS, "link", "words"))
    with pytest.raises(CurateError, match=r"has no column 'url'; its columns: id, link, words.*url=COLUMN"):
        read(path)
    with pytest.raises(CurateError, match=r"has no column 'nothing'"):
        read(f"{kind}(path={path}, url=link, caption=nothing)")
    assert read(f"{kind}(path={path}, url=link, caption=words)") == PAIRS


SQUEEZE = {"gz": gzip.compress, "bz2": bz2.compress, "xz": partial(lzma.compress, preset=0), "zst": zstd}


@pytest.mark.parametrize("ending", ["gz", *(pytest.param(e, marks=pytest.mark.slow) for e in ("zst", "bz2", "xz"))])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compression_is_told_by_the_ending_and_a_cut_file_keeps_its_first_lines(kind, ending, tmp_path):
    # digits that do not repeat: bzip2's block of 900 kB must not hold the whole file
    count = 9_000 if ending == "gz" else 45_000
    rows = [(f"http://a.test/{i}.jpg", f"text {i * 7919 % 100_003} {i * i}") for i in range(count)]
    path = tmp_path / f"pool.{kind}.{ending}"
    packed = SQUEEZE[ending](KINDS[kind](rows))
    path.write_bytes(packed)
    assert read(path) == rows
    path.write_bytes(packed[: len(packed) * 9 // 10])
    found, reason = read_damaged(path)
    assert found == rows[: len(found)]
    assert len(found) > count // 3
    assert str(path) in reason
    assert f"{len(found):,}" in reason


def test_gzip_members_one_after_the_other_are_one_file(tmp_path):
    packed = b"".join(gzip.compress(line) for line in as_csv(PAIRS).splitlines(True))
    (tmp_path / "pool.csv.gz").write_bytes(packed)
    assert read(tmp_path / "pool.csv.gz") == PAIRS


def test_a_parquet_file_broken_in_the_middle_keeps_the_row_groups_before(tmp_path):
    data = bytearray(as_parquet([(f"http://a.test/{i}.jpg", f"text {i}") for i in range(100_000)]))
    data[len(data) // 2 : len(data) // 2 + 4000] = b"\xff" * 4000
    (tmp_path / "pool.parquet").write_bytes(data)
    found, reason = read_damaged(tmp_path / "pool.parquet")
    assert "pool.parquet is damaged" in reason
    assert found == [(f"http://a.test/{i}.jpg", f"text {i}") for i in range(len(found))]


@pytest.mark.parametrize("content", [b"", b"PAR1 this is no parquet"])
def test_a_file_that_is_no_parquet_is_named(content, tmp_path):
    (tmp_path / "pool.parquet").write_bytes(content)
    assert "pool.parquet is damaged after 0 rows" in read_damaged(tmp_path / "pool.parquet")[1]


def test_lines_that_do_not_fit_are_left_out_and_reported(tmp_path):
    (tmp_path / "pool.csv").write_text("url,caption\nhttp://a/1,one\nhttp://a/2\nhttp://a/3,three\n")
    found, reason = read_damaged(tmp_path / "pool.csv")
    assert found == [("http://a/1", "one"), ("http://a/3", "three")]
    assert "1 line left out (row 3: 1 values where the header has 2), 2 rows read" in reason
    (tmp_path / "pool.jsonl").write_text('{"url": "u", "caption": "c"}\n{"url": \n[1]\n{"url": "v", "caption": null}\n')
    found, reason = read_damaged(tmp_path / "pool.jsonl")
    assert found == [("u", "c"), ("v", "")]
    assert "2 lines without a JSON object left out (line 2)" in reason
    (tmp_path / "pool.jsonl").write_text(
        '\ufeff{"url": "u", "caption": "c"}\n\n[1]\n{"url": "v", "caption": "d"}', "utf-8"
    )
    found, reason = read_damaged(tmp_path / "pool.jsonl")
    assert found == [("u", "c"), ("v", "d")]
    assert "1 line without a JSON object left out (line 3)" in reason


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_gzip_member_that_is_corrupt_ends_the_file_by_name(kind, tmp_path):
    lines = KINDS[kind]([(f"http://a.test/{i}.jpg", f"text {i}") for i in range(9)]).splitlines(True)
    packed = [gzip.compress(line) for line in lines]
    packed[6] = packed[6][:-9] + bytes([packed[6][-9] ^ 0xFF]) + packed[6][-8:]
    (tmp_path / f"pool.{kind}.gz").write_bytes(b"".join(packed))
    found, reason = read_damaged(tmp_path / f"pool.{kind}.gz")
    assert found == [(f"http://a.test/{i}.jpg", f"text {i}") for i in range(6 - (kind == "csv"))]
    assert f"pool.{kind}.gz is damaged after {len(found)} rows: " in reason


def test_a_pool_that_a_server_does_not_have_is_named(tmp_path, web):
    pool = open_pool(f"{web_url(web)}/pool.parquet")
    assert len([row for part in pool.parts() for table in pool.read(part) for row in table.to_pylist()]) == 40
    for name in ("missing.parquet", "missing.tar", "missing.jsonl.gz"):
        with pytest.raises(CurateError, match=f"no such pool: .*{name}"):
            open_pool(f"{web_url(web)}/{name}").parts()
        with pytest.raises(CurateError, match=f"no such pool file: .*{name}"):
            list(open_pool(f"{web_url(web)}/{name}").read(f"{web_url(web)}/{name}"))


@pytest.mark.parametrize("name", ["pool.parquet", "pool.csv", "images/", "folder(path={url}/images)", "*.tar"])
def test_a_pool_whose_server_does_not_answer_is_named(name, monkeypatch):
    monkeypatch.setattr(streams, "WAITS", ())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CurateError, match=f"{url}/.* cannot be reached: .*Connect call failed"):
            open_pool(name.format(url=url) if "(" in name else f"{url}/{name}").parts()


def web_url(folder) -> str:
    """The address of the test's web, which its pool's urls begin with."""
    return pq.read_table(folder / "pool.parquet")["url"][0].as_py().rpartition("/")[0]


def test_a_quote_in_a_tsv_swallows_nothing(tmp_path):
    (tmp_path / "pool.tsv").write_text('url\tcaption\nhttp://a/1\t6" nails\nhttp://a/2\tplain\n')
    assert read(tmp_path / "pool.tsv") == [("http://a/1", '6" nails'), ("http://a/2", "plain")]


def test_a_csv_that_is_no_text_is_named_in_a_short_line(tmp_path):
    (tmp_path / "pool.csv").write_bytes(bytes(range(256)) * 1000)
    _, reason = read_damaged(tmp_path / "pool.csv")
    assert reason.endswith("pool.csv is damaged after 0 rows: its first line is no text")


def test_a_row_that_is_too_long_is_said_so(tmp_path):
    (tmp_path / "pool.csv").write_bytes(b"url,caption\nhttp://a/1,one\nhttp://a/2," + b"x" * 4_000_000)
    assert "or its row has more than 3,145,728 bytes" in read_damaged(tmp_path / "pool.csv")[1]


@pytest.mark.parametrize("after", [1, 100_000])
def test_a_quote_that_is_never_closed_swallows_no_row_unsaid(after, tmp_path):
    rows = ['http://a/1,"one, two"', 'http://a/2,6" nails', 'http://a/3,"open', *["http://a/4,four"] * after]
    (tmp_path / "pool.csv").write_text("\n".join(["url,caption", *rows]))
    found, reason = read_damaged(tmp_path / "pool.csv")
    assert found == [("http://a/1", "one, two"), ("http://a/2", '6" nails')]
    assert reason.endswith("pool.csv is damaged after 2 rows: a quote that is opened there is never closed")


def test_a_line_that_does_not_fit_and_is_no_utf8_costs_itself(tmp_path):
    (tmp_path / "pool.csv").write_bytes(b"url,caption\nhttp://a/1,one\nhttp://a/\xff\nhttp://a/3,caf\xe9\n")
    found, reason = read_damaged(tmp_path / "pool.csv")
    assert found == [("http://a/1", "one"), ("http://a/3", "caf\N{REPLACEMENT CHARACTER}")]
    assert "1 line left out (row 3: " in reason


def test_bytes_that_are_no_utf8_do_not_stop_a_pool(tmp_path):
    (tmp_path / "pool.csv").write_bytes(b"url,caption\nhttp://a/1,caf\xe9\n")
    assert read(tmp_path / "pool.csv") == [("http://a/1", "caf\N{REPLACEMENT CHARACTER}")]
    (tmp_path / "pool.jsonl").write_bytes(b'{"url": "http://a/1", "caption": "\\ud800 x\\u0000"}\n')
    assert read(tmp_path / "pool.jsonl") == [("http://a/1", "? x\0")]


def test_folders_globs_and_remote_files_are_pools(tmp_path):
    for number in (2, 0, 1):
        (tmp_path / f"part-{number}.csv.gz").write_bytes(gzip.compress(as_csv([(f"http://a/{number}", str(number))])))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "part [0-1]*.csv").write_bytes(as_csv(PAIRS))
    assert read(tmp_path / "own" / "part [0-1]*.csv") == PAIRS
    (tmp_path / "own" / "part [0-1]*.csv").unlink()
    wanted = [(f"http://a/{number}", str(number)) for number in range(3)]
    (tmp_path / "_SUCCESS").write_text("")
    assert read(tmp_path) == wanted
    assert read(f"{tmp_path}/part-*.csv.gz") == wanted
    with fsspec.open("memory://pools/one.jsonl", "wb") as file:
        file.write(as_jsonl(PAIRS))
    assert read("memory://pools/one.jsonl") == PAIRS
    assert read("memory://pools") == PAIRS


def test_what_is_no_pool_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CurateError, match=r"ending of .*notes\.txt tells no kind of pool; known: \.parquet"):
        open_pool(str(tmp_path / "notes.txt"))
    with pytest.raises(CurateError, match=r"no such pool: .*missing\.parquet"):
        open_pool(str(tmp_path / "missing.parquet")).parts()
    with pytest.raises(CurateError, match="no such pool"):
        open_pool(str(tmp_path / "missing"))
    with pytest.raises(CurateError, match="holds no csv file"):
        open_pool(f"{tmp_path}/*.csv").parts()
    (tmp_path / "a.csv").write_bytes(as_csv(PAIRS))
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(PAIRS))
    with pytest.raises(CurateError, match="several kinds"):
        open_pool(str(tmp_path))
    for name, columns in (("two.csv", "url,text,text"), ("two.tsv", "url\turl\ttext")):
        (tmp_path / name).write_text(f"{columns}\n")
        with pytest.raises(CurateError, match=rf"{name} has 2 columns called '(text|url)'; rename all but one"):
            read(tmp_path / name)
    pq.write_table(pa.table([["u"], ["a"], ["b"]], names=["url", "text", "text"]), tmp_path / "two.parquet")
    with pytest.raises(CurateError, match=r"two.parquet has 2 columns called 'text'"):
        read(tmp_path / "two.parquet")
    with pytest.raises(CurateError, match="'csv' has no option 'urls'"):
        open_pool(f"csv(path={tmp_path}, urls=x)")


def test_the_query_list_drops_blanks_and_repetitions_and_keeps_its_order(tmp_path):
    (tmp_path / "q.txt").write_bytes("\ufeffzebra\n\n  dog \r\ndog\n \nSt. Louis\n".encode())
    listed = queries.read(str(tmp_path / "q.txt"))
    assert (listed.texts, listed.blank, listed.repeated) == (["zebra", "dog", "St. Louis"], 2, 1)
    (tmp_path / "q.txt.gz").write_bytes(gzip.compress(b"zebra\ndog\nSt. Louis"))
    assert queries.read(str(tmp_path / "q.txt.gz")).sha256 == listed.sha256


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\n  \n", "holds no query"), (b"a\nb\xff\n", r"not UTF-8 \(line 2\)")]
)
def test_a_query_list_that_is_none_is_named(content, reason, tmp_path):
    (tmp_path / "q.txt").write_bytes(content)
    with pytest.raises(CurateError, match=reason):
        queries.read(str(tmp_path / "q.txt"))
    with pytest.raises(CurateError, match=r"no such query list: .*missing\.txt"):
        queries.read(str(tmp_path / "missing.txt"))
