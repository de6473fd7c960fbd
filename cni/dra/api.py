"""The Kubernetes API, as far as the DRA driver needs it: read a claim, publish a ResourceSlice."""

from __future__ import annotations

import contextlib
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from cni.dra import claims
from cni.dra.claims import ClaimError, Json

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_API_S = 20.0
_NOT_FOUND = 404


class Api:
    """The Kubernetes API with a service account's token."""

    def __init__(self, base: str, account: Path = ACCOUNT) -> None:
        self.base = base
        self.account = account
        authority = account / "ca.crt"
        self._tls = (
            ssl.create_default_context(cafile=str(authority)) if base.startswith("https:") else None
        )

    def get(self, path: str) -> object:
        """An object.

        Raises:
            ClaimError: the API refused, or does not answer.
        """
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Json | None = None) -> object:
        """One call; a 404 to GET is None.

        Raises:
            ClaimError: as for `get`.
        """
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        with contextlib.suppress(FileNotFoundError):
            # Read anew each time: kubelet renews it.
            token = (self.account / "token").read_text(encoding="ascii").strip()
            headers["Authorization"] = f"Bearer {token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(  # noqa: S310 - the base is the cluster's own address
            self.base + path, data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(  # noqa: S310 - as above
                request, timeout=_API_S, context=self._tls
            ) as answer:
                found: object = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == _NOT_FOUND and method == "GET":
                    return None
                said = error.read(2000).decode(errors="replace")
            msg = f"{method} {path}: {error.code} {said}"
            raise ClaimError(msg) from error
        except (OSError, ValueError) as error:
            msg = f"{method} {path}: {error}"
            raise ClaimError(msg) from error
        return found

    def publish(self, node: str) -> None:
        """Make the node's ResourceSlice what it has to be; nothing is written if it is.

        Raises:
            ClaimError: as for `get`.
        """
        path = "/apis/resource.k8s.io/v1/resourceslices"
        found = self.get(f"{path}/{claims.slice_name(node)}")
        if not isinstance(found, dict):
            self.call("POST", path, claims.resource_slice(node, 1))
            return
        generation = int(found["spec"]["pool"]["generation"])
        wanted = claims.resource_slice(node, generation)
        if found["spec"] != wanted["spec"]:
            wanted = claims.resource_slice(node, generation + 1)
            wanted["metadata"] = found["metadata"]
            self.call("PUT", f"{path}/{claims.slice_name(node)}", wanted)
