"""What the rule score reads off commands and paths: test runs, edited files, test files.

A command is what one execution call runs, possibly several shell commands; it is split into
segments at `&&`, `||`, `;`, `|` and `&` outside quotes, and segments that only look or move are
skipped, so that `grep pytest setup.cfg` is no test run. The lists are those of the reference's
rule score (TQS V2).
"""

import functools
import re
from collections.abc import Iterator
from posixpath import normpath

_QUOTED = r"'[^']*(?:'|$)|\"(?:\\.|[^\"\\])*(?:\"|$)"
_PIECE = re.compile(rf"{_QUOTED}|\\.|&&|\|\||[;|&]|[^'\"\\;|&]+|.", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_DURATION = re.compile(r"\d+(?:\.\d+)?[smhd]?")
_WRAPPERS = frozenset("sudo env time nohup exec timeout stdbuf".split())
_HARMLESS = frozenset(
    "rm ls cat grep egrep fgrep rg ag find git echo mkdir rmdir cp mv touch head tail wc sed awk "
    "diff which whereis chmod chown cd sort uniq xargs export printf tree stat du df ln tar unzip "
    "gzip curl wget pwd env true false sleep kill ps".split()
)
_EXTENSION = (
    "(?:py|js|jsx|ts|tsx|mjs|cjs|go|rs|java|kt|kts|scala|rb|php|cc|cpp|cxx|cu|c|h|hpp|hxx|cs|swift"
    "|mm|pl|pm|exs|ex|lua|cljc|cljs|clj|edn|dart|sol|jl|erl|groovy|r|sh)"
)
_REPRO = "(?:reproduce|repro|verify|smoke)"

# Every match of the patterns below holds one of these; looking for them is 10 times as fast.
_TEST_HINTS = ("test", "check", "verify", "jest", "mocha", "busted")
_RUN_HINTS = tuple(
    "repro smoke python node bun deno npx tsx ruby perl php rscript -e run elixir iex clj clojure "
    "java dofile rspec tox ./".split()
)
_CACHED_COMMANDS = 512

_FORMAL_TEST = re.compile(
    r"\b(?:pytest|py\.test|unittest|nosetests|go\s+test|cargo\s+test|ctest|gtest_filter|jest|mocha"
    r"|vitest|(?:npm|yarn|pnpm)\s+(?:run\s+)?test|make\s+(?:test|check)|runtests\.py"
    r"|manage\.py\s+test|cmake\s+--build\s+\S+\s+--target\s+(?:test|check)|mix\s+test|swift\s+test"
    r"|lein\s+test|dotnet\s+test|busted)\b"
    r"|\bpython3?\s+test_"
    r"|\bmvnw?\b[^\n|&;]{0,200}?\b(?:test|verify|surefire:test|integration-test)\b"
    r"|\bgradlew?\b(?:(?!-x )[^\n|&;]){0,200}?test"
    r"|\./\S{0,200}(?:_test|test_)"
    r"|\bsbt\b.{0,2000}?\b(?:test|testOnly|testQuick|it:test)\b"
    r"|devtools::test|testthat::test|PlenaryBusted\w*",
    re.IGNORECASE,
)
_VERIFICATION = re.compile(
    rf"{_REPRO}\S{{0,200}}\.{_EXTENSION}\b"
    r"|\bpython3?\s+(?:-c\b|(?:-\S+\s+)*\S+\.py\b)"
    r"|\b(?:node|bun|deno)\s+(?:-\S+\s+)*\S+\.(?:[cm]?js|jsx|tsx?)\b"
    r"|\b(?:node|deno)\s+(?:-e|--eval|eval)\b"
    r"|\b(?:node|npx|deno|bun|ts-node|tsx)\s+\S*(?:repro|verify|smoke|test|spec)"
    r"|\b(?:ruby|perl)\s+-e\b|\bphp\s+-r\b"
    r"|\b(?:ruby|php|perl|Rscript)\s+(?:-\S+\s+)*\S+\.\w+"
    r"|\b(?:R|Rscript)\s+(?:--\S+\s+)*-e\b"
    r"|\b(?:go\s+run|cargo\s+(?:test|run)|swift\s+run|dotnet\s+(?:run|test)|mix\s+run|lein\s+run)\b"
    r"|\b(?:elixir|iex)\s+\S+\.exs?\b|\b(?:clj|clojure)\s+-[eMX]"
    r"|\bjava\b.{0,2000}?(?:\s-jar\s+\S|\s(?-i:[A-Z]))"
    r"|dofile\(\s*['\"][^'\"]{0,200}(?:test|repro|verify|spec)"
    r"|\b(?:bazel|blaze)\s+test\b|\b(?:phpunit|rspec|tox)\b"
    r"|\./\S{0,200}(?:_test|test_|repro|verify|smoke|\.(?:sh|out|bin|exe)\b)",
    re.IGNORECASE,
)
_NO_VERIFICATION = re.compile(
    r"\b(?:pip3?|conda|apt|apt-get|yum|brew)\s+install\b"
    r"|\b(?:npm|yarn|pnpm)\s+(?:install|i|ci|add)\b"
    r"|\bpython3?\s+setup\.py\s+(?:install|build|develop|egg_info|sdist|bdist\w*)\b"
    r"|\bmanage\.py\s+(?:runserver|migrate|makemigrations|collectstatic|shell|startapp"
    r"|startproject)\b"
    r"|\b(?:npm|yarn|pnpm)\s+(?:run\s+)?(?:dev|start|build|watch|serve|lint|format)\b"
    r"|\bcargo\s+(?:build|check|fmt|clippy|install)\b|\bgo\s+(?:build|install|mod|vet|fmt)\b"
    r"|\bpython3?\s+-c\b(?s:.{0,20000}?)(?:open\([^)]{0,200},\s*['\"][wa]|\.write\()",
    re.IGNORECASE,
)

_TEST_FILE = re.compile(
    r"(?:^|/)(?:conftest\.py"
    rf"|test_[^/]*\.{_EXTENSION}|[^/]*_tests?\.{_EXTENSION}|[^/]*_spec\.{_EXTENSION}"
    r"|[^/]*\.(?:test|spec)\.(?:m?[jt]sx?|cjs)"
    rf"|[^/]*(?-i:Tests?|Spec)\.{_EXTENSION}|[^/]*(?-i:IT)\.java"
    rf"|(?:tests?|__tests__|specs?|testing)/(?:.*/)?[^/]+\.{_EXTENSION}"
    r"|t/(?:.*/)?[^/]+\.t|src/(?:test|integrationTest|androidTest)/.+)$"
    rf"|{_REPRO}.*\.\w+$",
    re.IGNORECASE,
)
_PREFIXES = ("/workspace/", "/testbed/", "/repo/", "/home/swe-bench/")

_FILE = r"(?!-)([^\s;|&<>]+)"
# Bounded, like every gap in these patterns: no command may take quadratic time.
_GAP = 2000
_WORDS = rf"(?:{_QUOTED}|[^|;&\n'\"]){{0,{_GAP}}}?"
_INTO = rf"(?<![\d&>])>>?(?!&)\s*{_FILE}"
_REDIRECTIONS = (
    re.compile(rf"\bcat\s*>>?\s*{_FILE}"),
    re.compile(rf"\bcat\s+(?=[^\s>|;&]){_WORDS}{_INTO}"),
    re.compile(rf"\b(?:echo|printf)\b{_WORDS}{_INTO}", re.DOTALL),
    re.compile(rf"\btee\s+(?:-\S+\s+)*{_FILE}"),
    re.compile(rf"(?:^|[;&|])\s*patch\s+(?:-\S+\s+)*{_FILE}", re.MULTILINE),
)
_IN_PLACE = re.compile(rf"\b(?:g?sed|perl)\s{_WORDS}(?<=\s)-[A-Za-z]*i(?:\.\w+)?(?=\s)", re.DOTALL)
_TOKEN = re.compile(rf"\n|&&|\|\||[|&]|(?:{_QUOTED}|\\.|[^\s'\"\\|&])+", re.DOTALL)
_OPERATORS = frozenset(("&&", "||", "|", "&", ";", "\n"))


def segments(command: str) -> list[str]:
    """The simple commands of a shell command; newlines do not separate them."""
    parts = [""]
    for match in _PIECE.finditer(command):
        if match[0] in _OPERATORS:
            parts.append("")
        else:
            parts[-1] += match[0]
    return [part.strip() for part in parts if part.strip()]


@functools.lru_cache(_CACHED_COMMANDS)
def is_formal_test(command: str) -> bool:
    """Whether a test runner is started."""
    return any(_FORMAL_TEST.search(part) for part in _active_segments(command, _TEST_HINTS))


@functools.lru_cache(_CACHED_COMMANDS)
def is_verification(command: str) -> bool:
    """Whether anything is run that can show that a change works: tests, scripts, snippets."""
    return any(
        (_FORMAL_TEST.search(part) or _VERIFICATION.search(part))
        and not _NO_VERIFICATION.search(part)
        for part in _active_segments(command, _TEST_HINTS + _RUN_HINTS)
    )


def _active_segments(command: str, hints: tuple[str, ...]) -> Iterator[str]:
    """Segments worth a search: they hold a hint, and their program does more than look."""
    if _holds_any(command, hints):
        for part in segments(command):
            if _holds_any(part, hints) and _head(part) not in _HARMLESS:
                yield part


def _holds_any(text: str, hints: tuple[str, ...]) -> bool:
    lowered = text.lower()
    return any(hint in lowered for hint in hints)


def _head(segment: str) -> str:
    """The program that a simple command starts, without its directory."""
    words = iter(segment.split())
    wrapper = ""
    for word in words:
        name = word.rsplit("/", 1)[-1]
        if name in _WRAPPERS:
            wrapper = name
        elif not _ASSIGNMENT.match(word) and not (
            wrapper == "timeout" and (word.startswith("-") or _DURATION.fullmatch(word))
        ):
            return name
    return wrapper


def normalize_path(path: str) -> str:
    """A path relative to the repository, where the usual roots are known."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return normpath(path.removeprefix(prefix))
    return normpath(path)


def is_test_file(path: str) -> bool:
    """Whether a path is that of a test, or of a script that reproduces or verifies something."""
    return _TEST_FILE.search(path) is not None


@functools.lru_cache(_CACHED_COMMANDS)
def edit_targets(command: str) -> tuple[str, ...]:
    """The files that a command writes, normalised, as often as it writes them."""
    found = [match[1] for pattern in _REDIRECTIONS for match in pattern.finditer(command)]
    targets = [path for path in found if _is_plausible(path)]
    for match in _IN_PLACE.finditer(command):
        targets += _in_place_targets(command[match.end() : match.end() + _GAP])
    return tuple(normalize_path(path) for path in targets)


def _in_place_targets(rest: str) -> Iterator[str]:
    """Files named after the in-place flag of sed or perl."""
    has_script = False
    tokens = (match[0] for match in _TOKEN.finditer(rest))
    for token in tokens:
        is_quoted = token[0] in "'\""
        if token in _OPERATORS or (not is_quoted and re.search("[<>;]", token)):
            return
        if token in ("-e", "-E", "-f"):
            next(tokens, None)
            has_script = True
        elif token.startswith("-"):
            continue
        elif not has_script and (is_quoted or token[0] in "s/"):
            has_script = True
        elif _is_plausible(path := token.strip("'\"")):
            yield path
        else:
            return


def _is_plausible(path: str) -> bool:
    return bool(path) and not (
        path.startswith(("<<", "&", "/dev/", "/proc/", "/sys/"))
        or re.search("[<>;|]", path)
        or re.fullmatch(r"[\d&|=+\-*/!]+", path)
    )
