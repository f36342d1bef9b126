"""Eight small bugs in made-up projects: what the agents of the example job work on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One task and everything that an agent sees while it solves it."""

    instance_id: str
    path: str
    issue: str
    source: str
    """The part of the file around the bug, before the fix."""
    before: str
    after: str
    test: str
    """The command that shows the bug."""
    failure: str
    success: str
    symptom: str
    """What the agent concludes from the failure."""
    cause: str
    """What the agent concludes from the source."""


BUGS = (
    Bug(
        "orchard__basket-112",
        "basket/totals.py",
        "The total of an empty basket raises ValueError instead of being zero.\n\n"
        "    >>> Basket([]).total()\n    ValueError: max() arg is an empty sequence\n\n"
        "An empty basket should cost 0 and carry the shop's default currency.",
        "def total(self):\n"
        "    newest = max(item.added_at for item in self.items)\n"
        "    amount = sum(item.price * item.count for item in self.items)\n"
        "    return Money(amount, self.currency, as_of=newest)\n",
        "    newest = max(item.added_at for item in self.items)\n",
        "    newest = max((item.added_at for item in self.items), default=None)\n",
        "python -m pytest tests/test_totals.py -q",
        "F.                                                    [100%]\n"
        "FAILED tests/test_totals.py::test_empty - ValueError: max() arg is an empty sequence\n"
        "1 failed, 1 passed in 0.21s",
        "..                                                    [100%]\n2 passed in 0.19s",
        "max is called on an empty sequence when the basket has no items",
        "total takes the newest time before it looks at whether there is any item",
    ),
    Bug(
        "tidepool__almanac-48",
        "almanac/seasons.py",
        "`season_of` puts the last day of February in a leap year into spring. It compares the day "
        "of the year with fixed numbers, and day 60 is February 29 in leap years.",
        "SPRING, SUMMER, AUTUMN, WINTER = 60, 152, 244, 335\n\n"
        "def season_of(date):\n"
        "    day = date.timetuple().tm_yday\n"
        "    if day < SPRING or day >= WINTER:\n"
        "        return 'winter'\n"
        "    return 'spring' if day < SUMMER else 'summer' if day < AUTUMN else 'autumn'\n",
        "    day = date.timetuple().tm_yday\n",
        "    day = date.replace(year=2001).timetuple().tm_yday if date.month > 2 else 0\n",
        "python -m pytest tests/test_seasons.py -q",
        "E   AssertionError: assert 'spring' == 'winter'\n"
        "FAILED tests/test_seasons.py::test_leap_day\n1 failed, 5 passed in 0.14s",
        "......                                                [100%]\n6 passed in 0.12s",
        "only the leap day is wrong, the other five dates are right",
        "the boundaries are counted for common years, so leap years are off by one",
    ),
    Bug(
        "lanternworks__flagpost-7",
        "flagpost/parser.py",
        'Quoted values lose their last character.\n\nWith `name = "blue door"` in the file, '
        '`load()["name"]` is `blue doo`. Unquoted values are fine.',
        "def parse_value(text):\n"
        "    text = text.strip()\n"
        "    if text.startswith('\"') and text.endswith('\"'):\n"
        "        return text[1:-2]\n"
        "    return coerce(text)\n",
        "        return text[1:-2]\n",
        "        return text[1:-1]\n",
        "python -m pytest tests/test_parser.py -q -k quoted",
        "E   AssertionError: assert 'blue doo' == 'blue door'\n"
        "FAILED tests/test_parser.py::test_quoted\n1 failed, 9 deselected in 0.08s",
        ".                                                     [100%]\n"
        "1 passed, 9 deselected in 0.07s",
        "exactly one character is missing at the end of quoted values",
        "the slice ends at -2 although only one quote has to go",
    ),
    Bug(
        "cobaltmill__ledgerline-231",
        "ledgerline/export.py",
        "The CSV export breaks when a memo contains a comma: the columns behind it shift by one. "
        "Please use a real CSV writer instead of joining strings.",
        "import io\n\n"
        "def export(entries):\n"
        "    out = io.StringIO()\n"
        "    for entry in entries:\n"
        "        out.write(','.join([entry.date, entry.memo, str(entry.amount)]) + '\\n')\n"
        "    return out.getvalue()\n",
        "        out.write(','.join([entry.date, entry.memo, str(entry.amount)]) + '\\n')\n",
        "        csv.writer(out).writerow([entry.date, entry.memo, entry.amount])\n",
        "python -m pytest tests/test_export.py -q",
        "E   AssertionError: assert ['2026-01-02', 'bread', ' milk', '4.20'] has 3 columns\n"
        "FAILED tests/test_export.py::test_comma_in_memo\n1 failed, 3 passed in 0.16s",
        "....                                                  [100%]\n4 passed in 0.15s",
        "a memo with a comma is split into two columns",
        "the fields are joined without any quoting",
    ),
    Bug(
        "quietharbor__signalbox-19",
        "signalbox/retry.py",
        "`retry(times=3)` calls the function four times when it keeps failing. The counter is "
        "checked after the call although the first call counts as well.",
        "def retry(function, times):\n"
        "    attempt = 0\n"
        "    while True:\n"
        "        try:\n"
        "            return function()\n"
        "        except TransientError:\n"
        "            if attempt >= times:\n"
        "                raise\n"
        "            attempt += 1\n",
        "            if attempt >= times:\n",
        "            if attempt + 1 >= times:\n",
        "python -m pytest tests/test_retry.py -q",
        "E   assert 4 == 3\nFAILED tests/test_retry.py::test_gives_up\n1 failed, 2 passed in 0.10s",
        "...                                                   [100%]\n3 passed in 0.09s",
        "the function runs once more than it should",
        "attempt starts at zero and the first call is not counted",
    ),
    Bug(
        "papermoth__glossary-64",
        "glossary/index.py",
        "Entries that differ only in case are both listed, e.g. `Cache` and `cache`. The index is "
        "meant to fold case, as the documentation says.",
        "def build(entries):\n"
        "    seen = set()\n"
        "    for entry in entries:\n"
        "        key = entry.term.strip()\n"
        "        if key not in seen:\n"
        "            seen.add(key)\n"
        "            yield entry\n",
        "        key = entry.term.strip()\n",
        "        key = entry.term.strip().casefold()\n",
        "python -m pytest tests/test_index.py -q",
        "E   AssertionError: assert ['Cache', 'cache', 'Heap'] == ['Cache', 'Heap']\n"
        "FAILED tests/test_index.py::test_case\n1 failed, 4 passed in 0.11s",
        ".....                                                 [100%]\n5 passed in 0.10s",
        "the set treats the two spellings as different",
        "the key keeps its case",
    ),
    Bug(
        "northgate__pathfinder-305",
        "pathfinder/grid.py",
        "On grids with more rows than columns `neighbours` forgets the cells of the lower part. "
        "Square grids work.",
        "def neighbours(grid, row, column):\n"
        "    height, width = len(grid), len(grid[0])\n"
        "    for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):\n"
        "        r, c = row + dr, column + dc\n"
        "        if 0 <= r < width and 0 <= c < width:\n"
        "            yield r, c\n",
        "        if 0 <= r < width and 0 <= c < width:\n",
        "        if 0 <= r < height and 0 <= c < width:\n",
        "python -m pytest tests/test_grid.py -q",
        "E   assert [(1, 0), (2, 1)] == [(1, 0), (3, 0), (2, 1)]\n"
        "FAILED tests/test_grid.py::test_tall_grid\n1 failed, 6 passed in 0.13s",
        ".......                                               [100%]\n7 passed in 0.12s",
        "a cell below the square part is missing",
        "the row is compared with the width",
    ),
    Bug(
        "mossandoak__brewlog-83",
        "brewlog/units.py",
        "Converting 0 degrees Celsius gives None. It should be 32 Fahrenheit.",
        "def to_fahrenheit(celsius=None):\n"
        "    if not celsius:\n"
        "        return None\n"
        "    return celsius * 9 / 5 + 32\n",
        "    if not celsius:\n",
        "    if celsius is None:\n",
        "python -m pytest tests/test_units.py -q",
        "E   assert None == 32\nFAILED tests/test_units.py::test_freezing\n"
        "1 failed, 3 passed in 0.06s",
        "....                                                  [100%]\n4 passed in 0.06s",
        "zero is treated like a missing value",
        "the check is for truth, and zero is not true",
    ),
)
