"""What stands in the file of a signal about its making: by what, on which tar and on which rows."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import xxhash

from curate.errors import BadShard
from curate.shard import Shard

TAR_SAMPLE = "tar_sample"  # a file that was measured without it stays valid
COMPUTED_BY = "computed_by"  # the library, where several may: told, and never a reason to measure again
OF_THE_SHARD = ("tar_bytes", TAR_SAMPLE, "rows", COMPUTED_BY)  # what differs from shard to shard


def tar_now(shard: Shard, requests: bool = True) -> dict[str, Any]:
    """What tells the tar of a shard from another in its place: its size and what a few of its bytes are. For these
    a store is asked eight times; without `requests` it is not. Raises BadShard where the tar is gone."""
    sampled = requests or shard.folder.is_local
    try:
        size = shard.folder.size(shard.tar)
        return {"tar_bytes": size, **({TAR_SAMPLE: shard.folder.sample(shard.tar, size)} if sampled else {})}
    except FileNotFoundError as error:
        raise BadShard(f"{shard.folder.url}/{shard.tar} is missing") from error


def check_tar(shard: Shard, signal: str, made_by: Mapping[str, Any], tar: Mapping[str, Any]) -> None:
    """Raises BadShard where a signal was measured on another tar than `tar_now` tells of."""
    if any(made_by.get(name, value) != value for name, value in tar.items()):
        raise BadShard(f"{shard.folder.url}/signals/{signal}/{shard.name}.parquet was measured on another "
                       f"{shard.name}.tar; delete this file and measure again")  # fmt: skip


def rows_hash(table: pa.Table) -> str:
    """Of what tells one set of rows from another: uid, key, caption and, where a downloader wrote it, the hash of every
    image. With the size and a sample of the tar it stands for the shard, whose images need not all be read again."""
    state = xxhash.xxh3_64()
    for name in ("uid", "key", "caption", "sha256"):
        if name in table.column_names:
            state.update("\0".join(map(str, table[name].to_pylist())).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def told(made_by: Mapping[str, Any]) -> str:
    """What made a signal, without what is a shard's own."""
    return json.dumps({key: value for key, value in made_by.items() if key not in OF_THE_SHARD}, sort_keys=True)


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names under which the two differ in more than the library that computed them."""
    return sorted(key for key in {*before, *now} - {COMPUTED_BY} if before.get(key) != now.get(key))
