"""dedup with small parts and buckets, so that a small dataset has many."""

from curate import shuffle
from curate.dataset import Dataset
from curate.dedup import equal, join_bits, ranking, run


def main(arguments):
    equal.FEW = equal.BUCKET = ranking.RANGE = 6
    join_bits.BUCKET, join_bits.RANGES = 8, 1
    shuffle.FAN, shuffle.BUCKET_ROWS = 2, 6
    run(Dataset.open(arguments[0]), ("exact", "pdq"), engine="local(workers=1)")
