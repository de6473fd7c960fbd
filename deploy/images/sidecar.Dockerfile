# The sidecar of the KubeVirt network binding plugin; from the repository's root:
#   docker build -f deploy/images/sidecar.Dockerfile -t REGISTRY/millrace-kubevirt-sidecar .
FROM docker.io/library/python:3.11-slim-bookworm
COPY requirements.lock /tmp/requirements.lock
# Of all that the lock pins it needs gRPC alone, and what that needs.
RUN awk '/^[a-z]/ { keep = /^(grpcio|typing-extensions)==/ } keep' /tmp/requirements.lock >/tmp/sidecar.lock \
 && pip install --no-cache-dir --no-compile --no-deps --require-hashes -r /tmp/sidecar.lock \
 && rm /tmp/requirements.lock /tmp/sidecar.lock
COPY cni/__init__.py /usr/local/lib/python3.11/site-packages/cni/
COPY cni/kubevirt/ /usr/local/lib/python3.11/site-packages/cni/kubevirt/
# virt-launcher's user: the socket has to be one that it may connect to.
USER 107:107
# The name by which the plugin is registered in the KubeVirt CR.
ENV MILLRACE_BINDING=millrace PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["/usr/local/bin/python3", "-I", "-m", "cni.kubevirt.sidecar"]
