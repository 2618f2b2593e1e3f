#!/usr/bin/env bash
# Installs the third-party servers and players from npm that tests need, as tests/peers/package-lock.json names them.
# Without Node.js or npm, says so and leaves it to the tests to skip with their reason.
set -euo pipefail
cd "$(dirname "$0")/peers"

for program in node npm; do
    if ! command -v "$program" >/dev/null; then
        echo "No $program here: tests that need a server from npm are skipped." >&2
        exit 0
    fi
done
# npm writes its own note of what it has installed; one older than the lock is of another state.
[ node_modules/.package-lock.json -ot package-lock.json ] || exit 0

echo "Installing servers from npm" >&2
# No scripts: what packages run when they are installed is not needed, and would fetch more.
if ! npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2; then
    echo "npm failed: tests that need a server from it are skipped." >&2
fi
