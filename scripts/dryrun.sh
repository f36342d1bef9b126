#!/usr/bin/env bash
# Installs what is missing, then checks whether a run would work, changing nothing.
# Options and key=value overrides: `bash scripts/dryrun.sh --help`. SFT_CONFIG selects another config.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# One process from here to the end, so that a signal reaches whatever is running.
exec bash "$root/scripts/install.sh" "$root/.venv/bin/sft" dryrun "$@"
