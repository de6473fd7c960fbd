"""Tokens that rotate, certificates, kubeconfig files, and what is refused in them."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.kube import kubeconfig, plugin
from controller.kube.auth import Access, TokenFile, Trust, in_cluster
from controller.kube.errors import ApiError, ConfigError, Unreachable
from controller.kube.http import Client
from controller.kube.resources import NAMESPACES, Key
from tests.apistandin.server import StandIn

DEFAULT = Key("", "default")
PLUGINS = "client.authentication.k8s.io/v1"


async def asks(access: Access) -> str:
    async with Client(access) as client:
        return (await client.get(NAMESPACES, DEFAULT)).metadata.name


def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")

    async def run() -> None:
        api = StandIn(tokens={"one": "u"})
        async with api, Client(Access(api.url, token=TokenFile(file))) as client:
            assert (await client.get(NAMESPACES, DEFAULT)).metadata.name == "default"
            api.tokens = {"two": "u"}
            with pytest.raises(ApiError, match="401"):
                await client.get(NAMESPACES, DEFAULT)
            fresh = tmp_path / "fresh"
            fresh.write_text("two")
            fresh.rename(file)
            assert (await client.get(NAMESPACES, DEFAULT)).metadata.name == "default"
            file.unlink()
            # The kubelet replaces files by links: a moment without one is no reason to stop.
            assert (await client.get(NAMESPACES, DEFAULT)).metadata.name == "default"

    asyncio.run(run())


def test_a_token_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"token: No such file.*service account"):
        TokenFile(tmp_path / "token").read()
    (tmp_path / "token").touch()
    with pytest.raises(ConfigError, match="is empty"):
        TokenFile(tmp_path / "token").read()


def test_a_pod_knows_where_its_server_is(tmp_path: Path) -> None:
    for name, text in (("token", "t"), ("namespace", "kube-system\n"), ("ca.crt", "")):
        (tmp_path / name).write_text(text)
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = in_cluster(tmp_path, env)
    assert (access.server, access.namespace) == ("https://[fd00::1]:443", "kube-system")
    assert access.headers() == {"Authorization": "Bearer t"}
    with pytest.raises(ConfigError, match="this is no pod"):
        in_cluster(tmp_path, {})


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates of a server and of a client by it."""
    at = tmp_path_factory.mktemp("pki")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    usage = "keyUsage=critical,digitalSignature,keyCertSign"
    openssl(
        "req", "-x509", *key, "-keyout", at / "ca.key", "-out", at / "ca.crt", "-days", "2",
        "-subj", "/CN=authority", "-addext", usage,
    )  # fmt: skip
    for name in ("server", "client"):
        openssl(
            "req", "-x509", *key, "-keyout", at / f"{name}.key", "-out", at / f"{name}.crt",
            "-days", "2", "-subj", f"/CN={name}", "-CA", at / "ca.crt", "-CAkey", at / "ca.key",
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:kubernetes",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
    return at


def serving(pki: Path) -> StandIn:
    """A stand-in that wants certificates of clients, as an API server does for administrators."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "server.crt", pki / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return StandIn(tls=context)


def config(path: Path, server: str, user: dict[str, Any], **cluster: Any) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [
                    {"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}
                ],
            }
        )
    )
    return path


def test_client_certificates_by_file_and_inline(pki: Path) -> None:
    def inline(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    async def run() -> None:
        async with serving(pki) as api:
            named = {"client-certificate": "client.crt", "client-key": "client.key"}
            ca = {"certificate-authority": "ca.crt"}
            by_file = config(pki / "files.yaml", api.url, named, **ca)
            assert await asks(kubeconfig.load([by_file])) == "default"
            user = {
                "client-certificate-data": inline("client.crt"),
                "client-key-data": inline("client.key"),
            }
            whole = config(
                pki / "inline.yaml", api.url, user,
                **{"certificate-authority-data": inline("ca.crt"), "tls-server-name": "kubernetes"},
            )  # fmt: skip
            access = kubeconfig.load([whole])
            assert access.namespace == "ns"
            assert await asks(access) == "default"
            stranger = config(pki / "none.yaml", api.url, {}, **ca)
            with pytest.raises(Unreachable, match="GET /api/v1/namespaces/default"):
                await asks(kubeconfig.load([stranger]))

    asyncio.run(run())


def test_a_server_of_another_authority_is_not_believed(pki: Path) -> None:
    async def run() -> None:
        async with serving(pki) as api:
            with pytest.raises(Unreachable, match="certificate verify failed"):
                await asks(Access(api.url, Trust()))

    asyncio.run(run())


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.crt.*PEM"):
        Trust(tmp_path / "ca.crt").context()


def test_certificates_without_the_authoritys_key_are_taken(pki: Path) -> None:
    # As kubeadm and others make them; Python's stricter default (3.13) refuses them.
    context = Trust(pki / "ca.crt").context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_token_file_counts_before_a_token_and_broken_lines_are_joined(
    pki: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("fresh")
    data = base64.encodebytes((pki / "ca.crt").read_bytes()).decode()
    assert "\n" in data.strip()
    user = {"token": "stale", "tokenFile": "token"}
    path = config(tmp_path / "both", "https://a", user, **{"certificate-authority-data": data})
    access = kubeconfig.load([path])
    assert access.headers() == {"Authorization": "Bearer fresh"}
    assert access.trust is not None
    assert access.trust.context().get_ca_certs()
    empty = config(tmp_path / "empty", "https://a", {"token": "", "tokenFile": "token"})
    assert kubeconfig.load([empty]).headers() == {"Authorization": "Bearer fresh"}


PLUGIN = """#!/bin/sh
echo ran >>"$LOG"
case "$KUBERNETES_EXEC_INFO" in *'"interactive":false'*) ;; *) exit 9 ;; esac
[ -e "$0.broken" ] && echo "log in first" >&2 && exit 1
count=$(wc -l <"$LOG" | tr -d ' ')
echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",\\"kind\\":\\"ExecCredential\\",\\
\\"status\\":{\\"token\\":\\"$1-$count\\",\\"expirationTimestamp\\":\\"$UNTIL\\"}}"
"""


def plugged(at: Path, until: str) -> tuple[Access, Path]:
    """An access by a plugin whose tokens count its runs."""
    script, log = at / "plugin", at / "log"
    script.write_text(PLUGIN)
    script.chmod(0o755)
    env = [{"name": "LOG", "value": str(log)}, {"name": "UNTIL", "value": until}]
    user = {
        "exec": {
            "apiVersion": PLUGINS, "command": "./plugin", "args": ["secret"], "env": env,
            "installHint": "install it from there", "interactiveMode": "Never",
        }
    }  # fmt: skip
    return kubeconfig.load([config(at / "config", "https://a", user)]), log


def test_a_plugins_token_is_kept_until_its_end_and_asked_for_anew_when_refused(
    tmp_path: Path,
) -> None:
    access, log = plugged(tmp_path, "2999-01-01T00:00:00Z")
    assert [access.headers()["Authorization"] for _ in range(3)] == ["Bearer secret-1"] * 3
    assert access.refused()
    assert access.headers() == {"Authorization": "Bearer secret-2"}
    assert log.read_text().count("ran") == 2
    ended, _ = plugged(tmp_path, "2020-01-01T00:00:00Z")
    assert ended.headers() != ended.headers(), "what has ended is not shown again"


def test_a_plugin_whose_token_ends_nobody_knows_when_is_refused(tmp_path: Path) -> None:
    access, _ = plugged(tmp_path, "2999-01-01T00:00:00")
    with pytest.raises(ConfigError, match="it printed no ExecCredential"):
        access.headers()
    access, _ = plugged(tmp_path, "2999-01-01T00:00:00Z")
    assert access.headers()["Authorization"].removeprefix("Bearer ") not in repr(access.token)


def test_a_plugin_that_failed_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, log = plugged(tmp_path, "2999-01-01T00:00:00Z")
    (tmp_path / "plugin.broken").touch()
    for _ in range(3):
        with pytest.raises(ConfigError, match="log in first"):
            access.headers()
    (tmp_path / "plugin.broken").unlink()
    with pytest.raises(ConfigError, match="log in first"):
        access.headers()
    assert log.read_text().count("ran") == 1
    monkeypatch.setattr(plugin, "AGAIN_S", 0.0)
    assert access.headers() == {"Authorization": "Bearer secret-2"}


def test_a_plugin_that_fails_is_named_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "AGAIN_S", 0.0)
    access, _ = plugged(tmp_path, "2999-01-01T00:00:00Z")
    (tmp_path / "plugin.broken").touch()
    with pytest.raises(ConfigError, match=r"plugin: log in first; install it from there"):
        access.headers()
    (tmp_path / "plugin").unlink()
    with pytest.raises(ConfigError, match=r"plugin: .*No such file.*install it from there"):
        access.headers()
    (tmp_path / "plugin").write_text("#!/bin/sh\necho nothing\n")
    (tmp_path / "plugin").chmod(0o755)
    with pytest.raises(ConfigError, match="it printed no ExecCredential"):
        access.headers()


def test_a_server_by_an_ipv6_address_is_reached_and_known_by_it(tmp_path: Path, pki: Path) -> None:
    # In-cluster addresses are literals: the certificate names them, no name is looked up.
    name = tmp_path / "v6"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", "-subj", "/CN=v6",
        "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-addext", "subjectAltName=IP:::1",
        "-addext", "basicConstraints=critical,CA:FALSE",
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{name}.crt", f"{name}.key")

    async def run() -> None:
        async with StandIn(tls=context, host="::1") as api:
            assert await asks(Access(api.url, Trust(pki / "ca.crt"))) == "default"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("user", "cluster", "match"),
    [
        ({"exec": {"command": "aws"}}, {}, "exec of '' is not supported; write one of"),
        ({"exec": {"apiVersion": PLUGINS}}, {}, "exec without a command"),
        ({"exec": {"command": "a", "apiVersion": PLUGINS, "env": [{"name": "A"}]}}, {}, "exec.env"),
        (
            {"exec": {"command": "a", "apiVersion": PLUGINS, "interactiveMode": "Always"}},
            {},
            "exec that asks somebody",
        ),
        (
            {"exec": {"command": "a", "apiVersion": PLUGINS, "provideClusterInfo": True}},
            {},
            "provideClusterInfo is not supported",
        ),
        ({"auth-provider": {"name": "gcp"}}, {}, "'auth-provider' are not supported"),
        ({"username": "u", "password": "p"}, {}, "'username' are not supported"),
        ({"as": "admin"}, {}, "impersonation"),
        ({}, {"proxy-url": "http://p"}, "proxy-url is not supported"),
        ({"client-certificate": "c.crt"}, {}, "only go together"),
        ({"client-certificate-data": "*"}, {}, "no base64"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], match: str
) -> None:
    path = config(tmp_path / "config", "https://a", user, **cluster)
    with pytest.raises(ConfigError, match=match):
        kubeconfig.load([path])


def test_of_several_files_the_first_that_names_a_thing_wins(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_text(yaml.safe_dump({"users": [{"name": "u", "user": {"token": "first"}}]}))
    second = config(tmp_path / "second", "http://127.0.0.1:1", {"token": "second"})
    paths = kubeconfig.default_paths({"KUBECONFIG": f"{first}:{second}"})
    assert kubeconfig.load(paths).token == "first"
    with pytest.raises(ConfigError, match="there is no context 'other'; it has: c"):
        kubeconfig.load(paths, "other")
    with pytest.raises(ConfigError, match="No such file"):
        kubeconfig.load([tmp_path / "missing"])


def test_an_answer_that_is_no_status_is_told_in_one_line() -> None:
    """As a server answers a path below which it has nothing."""
    error = ApiError("GET", "/apis/a.example/v1/things", 404, "", "404 page not found\n")
    assert str(error) == (
        "GET /apis/a.example/v1/things: 404: page not found"
        "; if it is a kind, install its definition from deploy/"
    )
