# The sidecar of the KubeVirt network binding plugin; from the repository's root:
#   docker build -f deploy/images/sidecar.Dockerfile -t REGISTRY/millrace-kubevirt-sidecar .
FROM docker.io/library/debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.lock deploy/images/needed-of-lock /tmp/
# Of all that the lock pins it needs gRPC alone, and what that needs.
RUN /tmp/needed-of-lock /tmp/requirements.lock grpcio >/tmp/sidecar.lock \
 && /usr/bin/python3 -m venv /tmp/venv \
 && /tmp/venv/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes \
    --target /sidecar -r /tmp/sidecar.lock

FROM docker.io/library/debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /sidecar /usr/local/lib/python3.11/dist-packages
COPY cni/__init__.py /usr/local/lib/python3.11/dist-packages/cni/
COPY cni/kubevirt/ /usr/local/lib/python3.11/dist-packages/cni/kubevirt/
# virt-launcher's user: the socket has to be one that it may connect to.
USER 107:107
# The name by which the plugin is registered in the KubeVirt CR.
ENV MILLRACE_BINDING=millrace PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["/usr/bin/python3", "-I", "-m", "cni.kubevirt.sidecar"]
