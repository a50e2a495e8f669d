"""Makes the sample of the retail data set again: ``python tests/data/make_sample.py online_retail.csv.gz``.

The rows of four months, unchanged and in their order, below the head, compressed with xz at its highest preset.
"""

import gzip
import lzma
import re
import sys
from pathlib import Path

#: The date is the only column of this form.
MONTHS = re.compile(rb",2011-(08|09|10|11)-\d\d \d\d:\d\d:\d\d,")


def main(whole: Path) -> None:
    with gzip.open(whole) as file:
        head, *rows = file.readlines()
    kept = [row for row in rows if MONTHS.search(row)]
    data = lzma.compress(head + b"".join(kept), preset=9 | lzma.PRESET_EXTREME)
    (Path(__file__).parent / "online_retail_2011-08_2011-11.csv.xz").write_bytes(data)
    sys.stdout.write(f"{len(kept)} rows, {len(data)} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
