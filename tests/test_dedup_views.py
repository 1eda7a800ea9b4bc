"""A benchmark's pictures are found under the changes that copies go through; the doubtful are looked at themselves."""

import numpy as np
import pytest
from conftest import draw, encoded, pair
from PIL import Image, ImageDraw, ImageOps
from test_dedup_rules import scene

from curate import named, shard
from curate.dedup import measured, overlap, verify, views
from curate.dedup import run as dedup
from curate.dedup.codes import Comparison
from curate.dedup.features import INLIERS, features, inliers
from curate.rows import Rows

HERE = "local(workers=1)"


def detailed(seed: int, side: int = 300) -> Image.Image:
    """A scene with corners in it, as a photograph has them."""
    picture, rng = scene(seed, side), np.random.default_rng(seed)
    pen = ImageDraw.Draw(picture)
    for x, y, width, height, *colour in rng.integers(0, [side, side, 40, 40, 256, 256, 256], (60, 7)).tolist():
        pen.rectangle((x, y, x + 4 + width, y + 4 + height), fill=tuple(colour))
    return picture


def cropped(picture: Image.Image, share: float, at: float = 0.5) -> Image.Image:
    """A part with that share of the area; at: where along each side what is cut away begins, 0 to 1."""
    side = round(picture.width * share**0.5)
    first = round((picture.width - side) * at)
    return picture.crop((first, first, first + side, first + side))


def screenshot(picture: Image.Image) -> Image.Image:
    """Smaller, in a window with a title, beside other things."""
    page = Image.new("RGB", (480, 400), (236, 238, 240))
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, 480, 36), fill=(60, 64, 72))
    for line in range(9):
        pen.rectangle((300, 70 + 30 * line, 330 + 13 * (line * 5 % 11), 80 + 30 * line), fill=(120, 120, 130))
    page.paste(picture.resize((240, 240), Image.Resampling.LANCZOS), (30, 80))
    return page


def bits_apart(a: bytes, b: bytes) -> int:
    return int.bit_count(int.from_bytes(a) ^ int.from_bytes(b))


CHANGES = {
    "a tenth cut away": lambda picture: cropped(picture, 0.9),
    "a quarter cut away": lambda picture: cropped(picture, 0.75, 0.0),
    "mirrored": ImageOps.mirror,
    "turned": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "framed": lambda picture: ImageOps.expand(picture, 24, "white"),
    "between bars": lambda picture: ImageOps.pad(picture, (500, 300), color="black"),
    "tilted": lambda picture: picture.rotate(5, Image.Resampling.BICUBIC),
}
HALVES = {"half": lambda picture: cropped(picture, 0.5, 0.3)}
FAR = {"half, off the middle": lambda picture: cropped(picture, 0.5, 0.13)}


def test_a_picture_has_35_views_and_one_more_where_there_is_a_border():
    plain = np.asarray(detailed(0))
    framed = np.asarray(ImageOps.expand(detailed(0), 24, "white"))
    assert [len(list(views.of_bits(pixels))) for pixels in (plain, framed)] == [35, 36]
    inside = next(view for view in views.of_bits(framed) if view.name == views.TRIMMED)
    assert abs(inside.pixels.shape[0] / inside.pixels.shape[1] - 1) < 0.02
    assert sum(len(view.turns) for view in views.of_bits(plain)) == 8 + 8 + 2 * 33


def test_a_small_square_picture_is_not_looked_for_twice_as_its_own_middle():
    plain = np.asarray(detailed(0, side=200))
    assert "square" not in {view.name for cut in (views.of_bits, views.of_vectors) for view in cut(plain)}
    assert "square" in {view.name for view in views.of_vectors(plain[:, :180])}


@pytest.mark.parametrize("turn", range(8))
def test_turned_pictures_have_the_hash_that_their_turn_says(turn):
    signal, pixels = named.load("signals", "pdq"), np.asarray(detailed(1, 128))
    hashed = signal.measure(Rows.of([views.turned(pixels, turn)]))["pdq"][0].as_py()
    gaps = [bits_apart(hashed, other.tobytes()) for other in signal.turned(pixels)]
    assert gaps[turn] <= 48 < 80 < min(gap for at, gap in enumerate(gaps) if at != turn)


def test_trimmed_is_what_lies_inside_a_plain_border_and_nothing_where_there_is_none():
    signal = named.load("signals", "trimmed")
    plain, framed = detailed(2), ImageOps.expand(detailed(2), (30, 20), "black")
    codes = signal.measure(Rows.of([np.asarray(plain), np.asarray(framed)]))["trimmed"].to_pylist()
    whole = named.load("signals", "pdq").measure(Rows.of([np.asarray(plain)]))["pdq"][0].as_py()
    assert codes[0] is None
    assert bits_apart(codes[1], whole) <= 8


@pytest.fixture
def benchmark(tmp_path):
    """A folder of three detailed pictures."""
    folder = tmp_path / "held"
    folder.mkdir()
    for index in range(3):
        detailed(index).save(folder / f"{index}.png")
    return str(folder)


def pool(changes: dict) -> list[dict]:
    """Each picture of the benchmark under each change, and eight others."""
    shown = [encoded(change(detailed(index)), "PNG") for change in changes.values() for index in range(3)]
    shown += [encoded(detailed(100 + index)) for index in range(8)]
    return [{**pair(index), "image": image} for index, image in enumerate(shown)]


def found(dataset, rows: list[dict], changes: dict) -> dict[str, int]:
    """How many of the three pictures were found under each change; asserts that each is found as itself."""
    table = dataset.folder.read_table("reports/overlap-held.parquet").to_pylist()
    place = {shard.uid_of(row["url"], row["caption"]): at for at, row in enumerate(rows)}
    known = {(place[row["uid"]], row["benchmark_key"]) for row in table}
    assert all(at < 3 * len(changes) and key == f"{at % 3}.png" for at, key in known), "unlike pictures were matched"
    return {
        name: sum((3 * number + at, f"{at}.png") in known for at in range(3)) for number, name in enumerate(changes)
    }


@pytest.mark.slow
def test_copies_under_many_changes_are_found_by_views_alone(make_dataset, benchmark):
    rows = pool(CHANGES)
    dataset = dedup(make_dataset(rows), against=[benchmark], verify=False, engine=HERE)
    assert found(dataset, rows, CHANGES) == dict.fromkeys(CHANGES, 3)
    assert dataset.history[-1]["counts"]["kept"] == 8


@pytest.mark.slow
def test_what_a_hash_doubts_is_confirmed_by_local_features(make_dataset, benchmark, monkeypatch):
    monkeypatch.setattr(measured, "FEWEST", 1)
    monkeypatch.setattr(verify, "OPEN", 1)  # of the three shards of the benchmark's copy
    rows = pool(HALVES)
    dataset = make_dataset(rows, per_shard=4)
    blind = dedup(dataset, against=[benchmark], against_thresholds={"pdq": 31}, verify=False, engine=HERE)
    assert found(blind, rows, HALVES) == {"half": 0}
    seen = dedup(dataset, against=[benchmark], engine=HERE)
    assert found(seen, rows, HALVES) == {"half": 3}
    table = seen.folder.read_table("reports/overlap-held.parquet").to_pylist()
    assert {row["signal"] for row in table if row["verified"]} == {"orb"}
    assert all(row["inliers"] >= INLIERS for row in table if row["verified"])
    numbers = seen.history[-1]["counts"]["overlap"]["held"]
    assert numbers["confirmed"] == sum(row["verified"] for row in table) == 3
    assert seen.history[-1]["counts"]["kept"] == 8
    assert seen.selection != blind.selection


@pytest.mark.slow
def test_halves_that_no_view_shows_are_found_where_a_network_names_the_candidates(make_dataset, benchmark):
    rows = pool(FAR)
    hashes = dedup(make_dataset(rows, per_shard=20), against=[benchmark], engine=HERE)
    assert sum(found(hashes, rows, FAR).values()) < 3
    network = dedup(hashes, ["exact", "pdq", "embedding"], against=[benchmark], start="all", engine=HERE)
    assert found(network, rows, FAR) == dict.fromkeys(FAR, 3)


def test_local_features_know_a_part_and_a_screenshot_and_no_other_picture():
    whole = features(np.asarray(detailed(5)))
    for copy in (cropped(detailed(5), 0.5, 0.2), screenshot(detailed(5))):
        assert inliers(whole, features(np.asarray(copy))) >= INLIERS
    assert [inliers(whole, features(np.asarray(detailed(seed)))) for seed in range(6, 12)] == [0] * 6
    assert inliers(whole, features(np.zeros((50, 50, 3), np.uint8))) == 0


def test_thumbnails_are_compared_as_they_are_and_strictly(make_dataset, tmp_path):
    folder = tmp_path / "held"
    folder.mkdir()
    for index in range(3):
        scene(index, 40).save(folder / f"{index}.png")
    near = [{**pair(index), "image": encoded(scene(index, 40), "PNG")} for index in range(3)]
    dataset = dedup(make_dataset(near), against=[str(folder)], engine=HERE)
    copy = dataset.folder.names("work/dedup/held-*/views/pdq/*.parquet")
    names = {name.partition(",")[0] for name in dataset.folder.read_table(copy[0])["view"].to_pylist()}
    assert names <= {views.WHOLE, views.TRIMMED}
    numbers = dataset.history[-1]["counts"]["overlap"]["held"]
    assert (numbers["overlapping"], numbers["checked"]) == (3, 0)


def test_the_larger_the_pool_the_nearer_must_a_copy_lie():
    assert [overlap.pdq_threshold(rows) for rows in (100, 20_000, 200_000, 10**12)] == [55, 55, 45, 20]
    pdq = [Comparison("pdq", "pdq", "hamming", 31.0)]
    assert overlap.at_scale(pdq, 20_000, verify=False, given={})[0].threshold == 55
    assert overlap.at_scale(pdq, 20_000, verify=True, given={})[0].threshold == overlap.CONFIDENT
    assert overlap.at_scale(pdq, 20_000, verify=False, given={"pdq": 31})[0].threshold == 31


def test_a_benchmark_that_holds_an_image_twice_says_so(make_dataset, tmp_path):
    folder = tmp_path / "held"
    folder.mkdir()
    for name, quality in (("a.jpg", 95), ("b.jpg", 60)):
        detailed(0).save(folder / name, quality=quality)
    draw("red", "circle", 0).save(folder / "c.png")
    dataset = dedup(make_dataset([pair(1)]), against=[str(folder)], engine=HERE)
    twins = dataset.folder.read_table("reports/inside-held.parquet").to_pylist()
    assert [(row["benchmark_key"], row["first"], row["signal"]) for row in twins] == [("b.jpg", "a.jpg", "pdq")]
    assert dataset.history[-1]["counts"]["overlap"]["held"]["twins"] == 1
