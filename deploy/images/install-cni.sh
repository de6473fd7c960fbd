#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# install-cni.sh: puts the CNI plugin on the host, and takes this node's pods only while the daemon
# can attach them: the network list is written last, when STATUS says yes, and removed first.
#
# NODE       the node's name in node.toml
# PLUGIN     the plugin in this image; what it runs itself is hidden beside it
# CONFLIST   the network list in this image
# BIN, NET   the host's /opt/cni/bin and /etc/cni/net.d
# RUN        the host's /run/millrace
set -eu
: "${NODE:?}" "${PLUGIN:=/usr/lib/millrace/millrace-cni}"
: "${CONFLIST:=/usr/share/millrace/10-millrace.conflist}"
: "${BIN:=/host/opt/cni/bin}" "${NET:=/host/etc/cni/net.d}" "${RUN:=/run/millrace}"
list=$NET/$(basename "$CONFLIST")

# A file that is being executed cannot be written, but replaced.
replace() { cp "$1" "$2.new" && chmod "$3" "$2.new" && mv -f "$2.new" "$2"; }

ready() {
	printf '{"cniVersion":"1.1.0","name":"millrace","type":"millrace-cni","socket":"%s"}' \
		"$RUN/cni.sock" | CNI_COMMAND=STATUS CNI_PATH=$BIN "$PLUGIN" >"$1"
}

sleeper=
gone() {
	rm -f "$list"
	[ -z "$sleeper" ] || kill "$sleeper" 2>/dev/null || :
	exit 0
}
trap gone TERM INT

# In the background, so that a signal is heard at once.
nap() {
	sleep "$1" >/dev/null 2>&1 &
	sleeper=$!
	wait "$sleeper"
}

# One path for the networks of all nodes: the plugin's default.
ln -sfn "$NODE/cni.sock" "$RUN/cni.sock"
hidden=$(dirname "$PLUGIN")/.millrace-cni.py
[ ! -e "$hidden" ] || replace "$hidden" "$BIN/.millrace-cni.py" 755
replace "$PLUGIN" "$BIN/millrace-cni" 755
# The type that definitions written for Kube-OVN name; its own plugin, if it is there, stays.
[ -e "$BIN/kube-ovn" ] || ln -sfn millrace-cni "$BIN/kube-ovn"
said=
status=$(mktemp)
until ready "$status"; do
	now=$(cat "$status")
	[ "$now" = "$said" ] || echo "install-cni: not yet: $now"
	said=$now
	nap 1
done
replace "$CONFLIST" "$list" 644
echo "install-cni: $list is there"
while :; do
	nap 3600
done
