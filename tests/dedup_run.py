"""dedup with small parts and buckets, so that a small dataset has many."""

from curate.dataset import Dataset
from curate.dedup import equal, join_bits, run


def main(arguments):
    equal.PART = equal.BUCKET = 6
    join_bits.BUCKET, join_bits.RANGES = 8, 1
    run(Dataset.open(arguments[0]), ("exact", "pdq"), engine="local(workers=1)")
