#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build-plugin.sh OUT: the CNI plugin as one file, for hosts that have nothing of Millrace but
# Python 3.11. It needs the standard library alone. The launcher (cni/launcher) runs it, as
# .millrace-cni.py beside itself, where a call is out of the ordinary; without one it is the plugin.
set -eu
out=$1
here=$(cd "$(dirname "$0")/../.." && pwd)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/cni"
cp "$here"/cni/*.py "$stage/cni/"
printf 'import sys\nfrom cni.plugin import main\nsys.exit(main())\n' >"$stage/__main__.py"
# Compiled: a start would do it anew each time.
/usr/bin/python3 -m compileall -q -b --invalidation-mode unchecked-hash "$stage"
# -I: nothing of the runtime's environment; -S: site would be read at every start for nothing.
/usr/bin/python3 -m zipapp "$stage" --python "/usr/bin/python3 -IS" --output "$out"
chmod 755 "$out"
