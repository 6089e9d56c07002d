# SPDX-License-Identifier: Apache-2.0
"""Credentials, endpoints and proxies as the environment names them, as seen by who is asked: small HTTP servers."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ovms_mp.errors import StoreNotFound, StoreRefused
from ovms_mp.fetcher.opening import StoreOpener
from ovms_mp.model.store_url import parse_store_url
from tests.support.certificates import make_authority, make_certificate
from tests.support.recorded_http import Asked, RecordedHttp, Reply, recorded_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ovms_mp.fetcher.store import Store

JSON = {"Content-Type": "application/json"}
KEY, SECRET, TOKEN = "AKIDEXAMPLE", "secret-of-mine", "token-of-mine"  # of nobody
EMPTY = Reply(
    200, b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment without anything that a library of a store might read."""
    for name in list(os.environ):
        if re.match(r"(?i)API_|AWS_|AZURE_|GOOGLE_|S3_|STORAGE_|https?_proxy|no_proxy|all_proxy", name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def opened(url: str) -> Store:
    return StoreOpener(dict(os.environ)).open(parse_store_url(url))


@pytest.fixture
def s3() -> Iterator[RecordedHttp]:
    with recorded_http(lambda _: EMPTY) as server:
        yield server


def authorization(server: RecordedHttp, url: str = "s3://bucket/m") -> str:
    """How the one request that lists a bucket was signed."""
    assert list(opened(url).list("m/")) == []
    (asked,) = server.asked
    assert asked.path.startswith("/bucket?")
    return asked.headers.get("authorization", "")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "http://127.0.0.1:{}/"])
def test_an_endpoint_is_a_host_or_a_url(environment: pytest.MonkeyPatch, s3: RecordedHttp, form: str) -> None:
    environment.setenv("S3_ENDPOINT", form.format(s3.port))
    environment.setenv("AWS_ACCESS_KEY_ID", KEY)
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    environment.setenv("AWS_REGION", "eu-west-3")
    assert f"Credential={KEY}/" in (signature := authorization(s3))
    assert "/eu-west-3/s3/" in signature


def test_an_endpoint_in_the_url_comes_first(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    environment.setenv("S3_ENDPOINT", "127.0.0.1:1")
    assert authorization(s3, f"s3://127.0.0.1:{s3.port}/bucket/m") == ""


def test_without_credentials_nothing_is_signed(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    environment.setenv("S3_ENDPOINT", f"127.0.0.1:{s3.port}")
    assert authorization(s3) == ""


def test_a_session_token_is_sent(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    environment.setenv("S3_ENDPOINT", f"127.0.0.1:{s3.port}")
    environment.setenv("AWS_ACCESS_KEY_ID", KEY)
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    environment.setenv("AWS_SESSION_TOKEN", TOKEN)
    assert "x-amz-security-token" in authorization(s3)
    assert s3.asked[0].headers["x-amz-security-token"] == TOKEN


def test_a_profile_is_read(environment: pytest.MonkeyPatch, s3: RecordedHttp, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    credentials = f"[other]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (tmp_path / ".aws/credentials").write_text(credentials)
    (tmp_path / ".aws/config").write_text("[profile other]\nregion = eu-north-1\n")
    environment.setenv("S3_ENDPOINT", f"127.0.0.1:{s3.port}")
    environment.setenv("AWS_PROFILE", "other")
    assert f"Credential={KEY}/" in (signature := authorization(s3))
    assert "/eu-north-1/" in signature


def test_a_profile_that_does_not_exist_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match="nobody"):
        opened("s3://bucket/m")


def test_a_role_of_the_container_is_used(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    role = {
        "AccessKeyId": KEY,
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    }
    with recorded_http(lambda _: Reply(200, json.dumps(role).encode())) as agent:
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{agent.port}/role")
        environment.setenv("S3_ENDPOINT", f"127.0.0.1:{s3.port}")
        assert f"Credential={KEY}/" in authorization(s3)
    assert agent.asked[0].path == "/role"
    assert s3.asked[0].headers["x-amz-security-token"] == TOKEN


def test_a_role_of_the_machine_is_used(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    role = {
        "Code": "Success",
        "AccessKeyId": KEY,
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": "2099-01-01T00:00:00Z",
    }

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/api/token"):
            return Reply(200, b"session")
        if asked.path.endswith("/security-credentials/"):
            return Reply(200, b"the-role")
        return Reply(200, json.dumps(role).encode())

    with recorded_http(answer) as metadata:
        environment.delenv("AWS_EC2_METADATA_DISABLED")
        environment.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{metadata.port}")
        environment.setenv("S3_ENDPOINT", f"127.0.0.1:{s3.port}")
        assert f"Credential={KEY}/" in authorization(s3)
    assert metadata.asked[-1].path.endswith("/security-credentials/the-role")


@pytest.mark.parametrize("status", [301, 400])
def test_the_region_of_a_bucket_is_named(environment: pytest.MonkeyPatch, status: int) -> None:
    code = "PermanentRedirect" if status == 301 else "AuthorizationHeaderMalformed"
    body = f"<Error><Code>{code}</Code><Message>elsewhere</Message></Error>".encode()
    wrong = Reply(status, body, {"x-amz-bucket-region": "eu-south-2"})
    with recorded_http(lambda _: wrong) as server:
        environment.setenv("S3_ENDPOINT", f"127.0.0.1:{server.port}")
        environment.setenv("AWS_ACCESS_KEY_ID", KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        text = "bucket bucket is in the region eu-south-2, not us-east-1; set AWS_REGION=eu-south-2"
        with pytest.raises(StoreRefused, match=text):
            list(opened("s3://bucket/m").list("m/"))


def test_a_proxy_is_the_way_there(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    environment.setenv("http_proxy", f"http://127.0.0.1:{s3.port}")
    environment.setenv("S3_ENDPOINT", "http://store.invalid:9")
    assert list(opened("s3://bucket/m").list("m/")) == []
    assert s3.asked[0].path.startswith("http://store.invalid:9/bucket?")


def test_no_proxy_is_asked_for_what_is_near(environment: pytest.MonkeyPatch, s3: RecordedHttp) -> None:
    environment.setenv("http_proxy", "http://127.0.0.1:1")
    environment.setenv("no_proxy", "127.0.0.1")
    environment.setenv("S3_ENDPOINT", f"127.0.0.1:{s3.port}")
    assert authorization(s3) == ""


ACCOUNT_KEY = "a2V5LW9mLW1pbmU="
MODEL = b"a model"
ETAG = '"0x1"'
VARIABLES: dict[str, Callable[[str], dict[str, str]]] = {
    "connection": lambda url: {
        "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName=me;AccountKey={ACCOUNT_KEY};"
        f"FileEndpoint={url};BlobEndpoint={url};"
    },
    "key": lambda url: {"AZURE_STORAGE_ACCOUNT": url, "AZURE_STORAGE_KEY": ACCOUNT_KEY},
    "sas": lambda url: {"AZURE_STORAGE_ACCOUNT": url, "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=hush"},
    "anonymous": lambda url: {"AZURE_STORAGE_ACCOUNT": url},
}


def share(asked: Asked) -> Reply:
    """Azure Files with the share ``models``, which has ``m/1/model.onnx``: the part of its dialect that reads."""
    url = urlsplit(asked.path)
    path = unquote(url.path).removeprefix("/me")
    query = parse_qs(url.query)
    if not path.startswith("/models"):
        return _azure_error(404, "ShareNotFound")
    if query.get("comp") == ["list"]:
        directory = path.removeprefix("/models").strip("/")
        inside = {"m": "<Directory><Name>1</Name><Properties/></Directory>", "m/1": _FILE}.get(directory)
        if inside is None:
            return _azure_error(404, "ResourceNotFound")
        body = f"<EnumerationResults><Entries>{inside}</Entries><NextMarker/></EnumerationResults>"
        return Reply(200, body.encode(), {"Content-Type": "application/xml"})
    start, stop = map(int, (re.findall(r"\d+", asked.headers["x-ms-range"])))
    headers = {"ETag": ETAG, "Content-Range": f"bytes {start}-{stop}/{len(MODEL)}", "x-ms-type": "File"}
    return Reply(206, MODEL[start : stop + 1], headers)


_FILE = (
    "<File><Name>model.onnx</Name><Properties>"
    f"<Content-Length>{len(MODEL)}</Content-Length><Etag>{ETAG}</Etag></Properties></File>"
)


def _azure_error(status: int, code: str) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return Reply(status, body, {"x-ms-error-code": code, "Content-Type": "application/xml"})


@pytest.mark.parametrize("form", ["connection", "key", "sas"])
def test_a_share_is_read(environment: pytest.MonkeyPatch, form: str) -> None:
    pytest.importorskip("azure.storage.fileshare")
    with recorded_http(share) as server:
        set_azure(environment, form, server)
        store = opened("azfs://models/m")
        (found,) = store.list("m/")
        assert (found.key, found.size) == ("m/1/model.onnx", len(MODEL))
        assert b"".join(store.read(found, 2, 7)) == MODEL[2:7]
        assert list(store.list("other/")) == []
        assert_signed(server, form)


def test_a_share_that_does_not_exist_is_named(environment: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.storage.fileshare")
    with recorded_http(share) as server:
        set_azure(environment, "key", server)
        with pytest.raises(StoreNotFound, match="share none does not exist"):
            list(opened("azfs://none/m").list("m/"))


def test_no_share_is_open_to_everybody(environment: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.storage.fileshare")
    environment.setenv("AZURE_STORAGE_ACCOUNT", "me")
    with pytest.raises(StoreRefused, match="either an account shared key or SAS token"):
        opened("azfs://models/m")


@pytest.mark.parametrize("form", VARIABLES)
def test_a_container_is_asked(environment: pytest.MonkeyPatch, form: str) -> None:
    pytest.importorskip("azure.storage.blob")
    body = b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
    with recorded_http(lambda _: Reply(200, body, {"Content-Type": "application/xml"})) as server:
        set_azure(environment, form, server)
        assert list(opened("az://models/m").list("m/")) == []
        assert_signed(server, form)


def set_azure(environment: pytest.MonkeyPatch, form: str, server: RecordedHttp) -> None:
    for name, value in VARIABLES[form](f"http://127.0.0.1:{server.port}/me").items():
        environment.setenv(name, value)


def assert_signed(server: RecordedHttp, form: str) -> None:
    """All requests had the credential of this form, and no other."""
    assert server.asked
    for asked in server.asked:
        assert ("authorization" in asked.headers) == (form in ("connection", "key"))
        assert ("sig=hush" in asked.path) == (form == "sas")


GIVEN = b'{"access_token": "given-to-us", "token_type": "Bearer", "expires_in": 3600}'
"""What an authority answers."""
BEARER = "Bearer given-to-us"


def test_a_google_key_file_is_used(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("google.cloud.storage")
    with recorded_http(lambda _: Reply(200, GIVEN, JSON)) as authority:
        key = {
            "type": "service_account",
            "client_email": "reader@project.example",
            "private_key_id": "1",
            "private_key": rsa_key(),
            "token_uri": f"http://127.0.0.1:{authority.port}/token",
        }
        assert_google_asks_with_a_token(environment, tmp_path, key, authority)
    (claim,) = parse_qs(authority.asked[0].body.decode())["assertion"]
    claims = json.loads(base64.urlsafe_b64decode(claim.split(".")[1] + "=="))
    assert claims["iss"] == "reader@project.example"
    assert claims["scope"].endswith("/devstorage.read_only")


def rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *form).decode()


def test_googles_workload_identity_is_used(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("google.cloud.storage")
    (tmp_path / "subject").write_text("token-of-the-pod")
    issued = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token", **json.loads(GIVEN)}
    with recorded_http(lambda _: Reply(200, json.dumps(issued).encode(), JSON)) as authority:
        account = {
            "type": "external_account",
            "audience": "//iam.example/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"http://127.0.0.1:{authority.port}/token",
            "credential_source": {"file": str(tmp_path / "subject")},
        }
        assert_google_asks_with_a_token(environment, tmp_path, account, authority)
    assert parse_qs(authority.asked[0].body.decode())["subject_token"] == ["token-of-the-pod"]


def assert_google_asks_with_a_token(
    environment: pytest.MonkeyPatch, directory: Path, account: Mapping[str, object], authority: RecordedHttp
) -> None:
    """A bucket is listed with the token that the authority has given once."""
    (directory / "account.json").write_text(json.dumps(account))
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(directory / "account.json"))
    with recorded_http(lambda _: Reply(200, b"{}", JSON)) as store:
        environment.setenv("API_ENDPOINT_OVERRIDE", f"http://127.0.0.1:{store.port}")
        bucket = opened("gs://models/m")
        assert list(bucket.list("m/")) == list(bucket.list("m/")) == []
        assert [asked.headers["authorization"] for asked in store.asked] == [BEARER] * 2
    assert len(authority.asked) == 1


@pytest.mark.parametrize("form", ["workload", "managed"])
def test_an_azure_identity_is_used(environment: pytest.MonkeyPatch, tmp_path: Path, form: str) -> None:
    """Of a pod, by a file with its token; of a virtual machine or an app, by an endpoint beside it."""
    pytest.importorskip("azure.identity")
    authority_of_all = make_authority("azure")
    leaf = make_certificate("localhost", signer=authority_of_all)
    chain, key = leaf.write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority_of_all.chain)
    (tmp_path / "token").write_text("token-of-the-pod")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(chain, key)
    body = b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
    given = json.dumps({**json.loads(GIVEN), "expires_on": "4102444800", "resource": "storage"}).encode()
    with (
        recorded_http(lambda _: Reply(200, given, JSON), tls if form == "workload" else None) as authority,
        recorded_http(lambda _: Reply(200, body, {"Content-Type": "application/xml"}), tls) as store,
    ):
        variables = {
            "workload": {
                "AZURE_CLIENT_ID": "client",
                "AZURE_TENANT_ID": "tenant",
                "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
                "AZURE_AUTHORITY_HOST": f"https://localhost:{authority.port}",
            },
            "managed": {
                "IDENTITY_ENDPOINT": f"http://127.0.0.1:{authority.port}/token",
                "IDENTITY_HEADER": "header-of-the-machine",
            },
        }
        for name, value in variables[form].items():
            environment.setenv(name, value)
        environment.setenv("AZURE_STORAGE_ACCOUNT", f"https://localhost:{store.port}/me")
        environment.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert list(opened("az://models/m").list("m/")) == []
        assert [asked.headers["authorization"] for asked in store.asked] == [BEARER]
    (asked,) = authority.asked
    if form == "workload":
        assert asked.path == "/tenant/oauth2/v2.0/token"
        assert parse_qs(asked.body.decode())["client_assertion"] == ["token-of-the-pod"]
    else:
        assert asked.headers["x-identity-header"] == "header-of-the-machine"


def test_without_an_account_its_variables_are_named(environment: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.storage.blob")
    with pytest.raises(StoreRefused, match="AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT"):
        opened("az://models/m")
