"""The Kubernetes API, as far as the DRA driver needs it: read a claim, publish a ResourceSlice."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from cni.dra import claims
from cni.dra.claims import ClaimError, Json

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_API_S = 20.0
log = logging.getLogger(__name__)
_NOT_FOUND = 404


class Api:
    """The Kubernetes API with a service account's token."""

    def __init__(self, base: str, account: Path = ACCOUNT) -> None:
        self.base = base
        self.account = account
        self._kept: object = None
        """The specification that the API made of the one that we wrote last."""

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
            with self._opener().open(request, timeout=_API_S) as answer:
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

    def _opener(self) -> urllib.request.OpenerDirector:
        """Straight to the API, whatever proxies the environment names; its authority read anew."""
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.base.startswith("https:"):
            tls = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
            # Python 3.13 refuses certificates of common installers, which name no authority's key.
            tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        return urllib.request.build_opener(*handlers)

    def publish(self, node: str) -> None:
        """Make the node's ResourceSlice what it has to be; nothing is written if it is.

        Raises:
            ClaimError: as for `get`.
        """
        path = "/apis/resource.k8s.io/v1/resourceslices"
        found = self.get(f"{path}/{claims.slice_name(node)}")
        if not isinstance(found, dict):
            wanted = claims.resource_slice(node, 1)
            self._keep(self.call("POST", path, wanted), wanted)
            return
        generation = int(found["spec"]["pool"]["generation"])
        wanted = claims.resource_slice(node, generation)
        if found["spec"] not in (wanted["spec"], self._kept):
            wanted = claims.resource_slice(node, generation + 1)
            wanted["metadata"] = found["metadata"]
            self._keep(self.call("PUT", f"{path}/{claims.slice_name(node)}", wanted), wanted)

    def _keep(self, answer: object, wanted: Json) -> None:
        """Remember what the API made of it: writing the same again would not change that."""
        self._kept = answer.get("spec") if isinstance(answer, dict) else None
        if self._kept != wanted["spec"]:
            log.warning(
                "resource slice: the API does not keep all of it, so claims of several workloads "
                "may not share the bridge; enable its feature gate DRAConsumableCapacity"
            )


def server(environment: Mapping[str, str]) -> str:
    """The URL of the API that a pod's environment names."""
    host, port = (environment.get(f"KUBERNETES_SERVICE_{key}", "") for key in ("HOST", "PORT"))
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
