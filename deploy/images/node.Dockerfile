# The node daemon, the cluster controller and the CNI plugin; from the repository's root:
#   docker build -f deploy/images/node.Dockerfile -t REGISTRY/millrace-node .
# OVS and OVN are not in it: they run on the host or in containers of their own.
FROM docker.io/library/debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
    clang llvm gcc libc6-dev libbpf-dev linux-libc-dev make python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY . /opt/millrace/
WORKDIR /opt/millrace
RUN make -C bpf && make -C cni/launcher \
 && /usr/bin/python3 -m venv --system-site-packages .venv \
 && deploy/images/needed-of-lock requirements.lock >/tmp/node.lock \
 && .venv/bin/pip install --no-cache-dir --ignore-installed --no-deps --require-hashes -r /tmp/node.lock \
 && .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation \
    --config-settings editable_mode=compat -e . \
 && deploy/images/build-plugin.sh /opt/millrace/.millrace-cni.py \
 && rm -rf tests bench .git

FROM docker.io/library/debian:12-slim
# The interpreter must be Debian's: the BCC and OVS bindings exist for no other.
RUN apt-get update && apt-get install -y --no-install-recommends \
    python3 python3-openvswitch python3-bpfcc libbpf1 openvswitch-common ovn-common \
    iproute2 ethtool kmod procps tcpdump \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/millrace /opt/millrace
RUN install -D -m 755 /opt/millrace/cni/launcher/obj/millrace-cni /usr/lib/millrace/millrace-cni \
 && install -D -m 755 /opt/millrace/.millrace-cni.py /usr/lib/millrace/.millrace-cni.py \
 && install -D -m 755 /opt/millrace/deploy/images/install-cni.sh /usr/lib/millrace/install-cni.sh \
 && install -D -m 644 /opt/millrace/deploy/kubernetes/10-millrace.conflist \
    /usr/share/millrace/10-millrace.conflist
ENV PATH=/opt/millrace/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin
