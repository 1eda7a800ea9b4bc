"""`--thorough`: copies inside a pool are found under the changes that copies against a benchmark are found under."""

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import encoded, pair
from PIL import ImageDraw
from test_dedup_views import CHANGES, HALVES, detailed

from curate import shard
from curate.cli import main
from curate.dedup import run as dedup
from curate.dedup.features import INLIERS, features, inliers
from curate.errors import CurateError

HERE = "local(workers=1)"
ALL = {"large": lambda picture: picture.resize((600, 600)), **CHANGES, **HALVES}


def rows() -> list[dict]:
    """Three pictures, each under every change, the whole the largest; five others."""
    shown = [change(detailed(index)) for change in ALL.values() for index in range(3)]
    shown += [detailed(100 + index) for index in range(5)]
    return [{**pair(index), "image": encoded(picture, "PNG"), "width": picture.width, "height": picture.height}
            for index, picture in enumerate(shown)]  # fmt: skip


def kept(dataset) -> set[str]:
    return {uid for each in dataset.shards for uid in dataset.kept(each, dataset.selection)["uid"].to_pylist()}


def uids(pairs: list[dict]) -> list[str]:
    return [shard.uid_of(row["url"], row["caption"]) for row in pairs]


def dropped(dataset) -> list[dict]:
    tables = [dataset.folder.read_table(f"selections/{dataset.selection}/{each.name}.parquet")
              for each in dataset.shards]  # fmt: skip
    return [row for table in tables for row in table.to_pylist() if row["weight"] == 0]


def stars(dataset) -> list[tuple]:
    return sorted((row["uid"], row["keeper"], row["signal"], row["distance"]) for row in dropped(dataset))


@pytest.mark.slow
def test_crops_mirror_images_tilts_and_frames_are_found_inside_a_pool_and_nothing_else(make_dataset, tmp_path):
    pairs = rows()
    plain = dedup(make_dataset(pairs, per_shard=10), engine=HERE)
    assert len(kept(plain)) > 3 + 5 + 9, "the pool's own signals find few of them"
    dataset = dedup(plain, thorough=True, start="all", engine=HERE)
    names = uids(pairs)
    groups = [{*names[at : 3 * len(ALL) : 3]} for at in range(3)]
    stay = kept(dataset)
    assert [len(group & stay) for group in groups] == [1, 1, 1]
    assert {*names[3 * len(ALL) :]} <= stay
    own = {uid: at for at, group in enumerate(groups) for uid in group}
    gone = dropped(dataset)
    assert all(own[row["uid"]] == own[row["keeper"]] for row in gone)
    assert {"pdq", "orb"} <= {row["signal"] for row in gone}
    counted = dataset.history[-1]["counts"]["duplicates"]
    assert sum(counted.values()) == len(gone) == 3 * (len(ALL) - 1)
    assert not dataset.folder.names("work/dedup/**"), "the copy of the pool goes when it has served"
    again = dedup(make_dataset(pairs, 17, str(tmp_path / "again")), thorough=True, engine="local(workers=2)")
    assert stars(dataset) == stars(again), "shards and workers change nothing"


def test_a_background_in_common_is_no_copy_but_a_text_laid_over_is():
    whole, other = detailed(0), detailed(0)
    other.paste(detailed(1).crop((70, 70, 230, 230)), (70, 70))  # a quarter of the picture
    written = detailed(0)
    ImageDraw.Draw(written).text((30, 130), "SALE 50%", "white", font_size=24)
    seen, *copies = (features(np.asarray(picture)) for picture in (whole, other, written))
    assert [inliers(seen, copy) >= INLIERS for copy in copies] == [True, True]
    assert [inliers(seen, copy, everywhere=True) >= INLIERS for copy in copies] == [False, True]


@pytest.mark.slow
def test_what_the_pool_s_signals_dropped_is_not_looked_at_again(make_dataset):
    same, other = encoded(detailed(0), "PNG"), encoded(CHANGES["mirrored"](detailed(0)), "PNG")
    pairs = [{**pair(index), "image": same} for index in range(40)] + [{**pair(40), "image": other}]
    dataset = dedup(make_dataset(pairs), thorough=True, candidates=1, engine=HERE)
    assert dataset.history[-1]["counts"]["duplicates"] == {"exact": 39, "pdq": 1}
    assert len(kept(dataset)) == 1


@pytest.mark.slow
def test_a_pool_whose_images_cannot_be_decoded_is_compared_without_them(make_dataset):
    pairs = [{**pair(0), "image": b"no image"}, {**pair(1), "image": encoded(detailed(1), "PNG")},
             {**pair(2), "image": encoded(CHANGES["mirrored"](detailed(1)), "PNG")}]  # fmt: skip
    dataset = dedup(make_dataset(pairs), thorough=True, engine=HERE)
    assert len(kept(dataset)) == 2


def test_a_caption_signal_cannot_be_thorough(make_dataset):
    with pytest.raises(CurateError, match="caption"):
        dedup(make_dataset([pair(0)]), thorough=True, against_signals=("caption",), engine=HERE)


@pytest.mark.slow
def test_the_command_has_the_option(make_dataset):
    pairs = [{**pair(at), "image": encoded(picture, "PNG")}
             for at, picture in enumerate([detailed(0), CHANGES["tilted"](detailed(0))])]  # fmt: skip
    result = CliRunner().invoke(main, ["dedup", make_dataset(pairs).url, "--thorough", "--engine", HERE])
    assert result.exit_code == 0, result.output
    assert "1 of 2 pairs kept" in result.output
