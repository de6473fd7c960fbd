#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Resolves pyproject.toml into requirements.lock: every package pinned, with hashes, no index named.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=$(mktemp -d)
trap 'rm -rf "${tool}"' EXIT
/usr/bin/python3 -m venv "${tool}"
"${tool}/bin/pip" install --quiet --disable-pip-version-check uv
"${tool}/bin/uv" pip compile --quiet --native-tls --python /usr/bin/python3 --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	--group dev -o "${tool}/lock" pyproject.toml
{
	echo "# Every package of the venv, pinned with hashes. Made by \`make lock\` from pyproject.toml; do not edit."
	cat "${tool}/lock"
} >requirements.lock
