#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a bare Debian 12 ready: system packages, the virtual environment, an editable install.
# Idempotent; when nothing is missing it only asks dpkg and compares stamps (well under 3 s).
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
	openvswitch-switch-dpdk openvswitch-switch ovn-central ovn-host dpdk dpdk-dev
	clang llvm libbpf-dev bpftool
	python3-bpfcc python3-openvswitch python3-venv
	iproute2 ethtool tcpdump nftables iptables iputils-ping iperf3 curl procps kmod
	qemu-system-x86 busybox-static cpio xz-utils
	libvirt-clients libvirt-daemon-driver-qemu libxml2-utils
	gcc pkg-config libdpdk-dev make ca-certificates linux-libc-dev
)

# dpkg-query prints "ii " for an installed package; one that dpkg never heard of is on stderr only.
installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
	grep -qx "ii ${package}" <<<"${installed}" || missing+=("${package}")
done

if ((${#missing[@]})); then
	if ((EUID != 0)); then
		echo "setup: missing packages: ${missing[*]}; only root may install them; run make setup as root" >&2
		exit 1
	fi
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# Millrace starts its own OVS and OVN. Debian's packages would start theirs on installation:
	# invoke-rc.d asks policy-rc.d first, so one that says no (101) is lent to it, if none is there.
	policy=/usr/sbin/policy-rc.d
	lent=
	if [[ ! -e ${policy} ]]; then
		printf '#!/bin/sh\nexit 101\n' >"${policy}"
		chmod 755 "${policy}"
		lent=yes
	fi
	trap '[[ -z ${lent} ]] || rm -f "${policy}"' EXIT
	apt-get -q update
	apt-get -q -y install --no-install-recommends "${missing[@]}"
fi

# The interpreter must be Debian's: the BCC and OVS bindings exist for no other.
python=/usr/bin/python3
venv=.venv
[[ -x ${venv}/bin/python ]] || "${python}" -m venv --system-site-packages "${venv}"

stamp=${venv}/.installed
wanted=$(cat requirements.lock pyproject.toml .ci/setup.sh | sha256sum)
if [[ ! -f ${stamp} || $(<"${stamp}") != "${wanted}" ]]; then
	# --ignore-installed: a pinned package has to be in the venv even if Debian has that version.
	"${venv}/bin/pip" install --quiet --disable-pip-version-check --ignore-installed \
		--require-hashes -r requirements.lock
	# No build isolation: setuptools is in the lock already, and nothing is fetched. Mode compat
	# (a .pth file) puts our folders before the system's; the default import hook comes last, and
	# Debian's linux-perf ships a module that is called perf, too.
	"${venv}/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=compat -e .
	echo "${wanted}" >"${stamp}"
	echo "setup: ${venv} is ready"
fi
