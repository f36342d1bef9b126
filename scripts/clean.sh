#!/usr/bin/env bash
# Removes __pycache__; --artifacts and --repo-cache remove more, --dry-run only lists. Installs nothing.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
if [[ ! -x $root/.venv/bin/sft ]]; then
    echo "clean.sh: $root/.venv is missing or incomplete; run \`bash scripts/install.sh\` first" >&2
    exit 2
fi
exec "$root/.venv/bin/sft" clean "$@"
