# SPDX-License-Identifier: Apache-2.0
"""URLs of object stores."""

from __future__ import annotations

import pytest

from ovms_mp.errors import ConfigError
from ovms_mp.model.store_url import StoreUrl, parse_store_url, without_secrets


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b", StoreUrl("s3", "bucket", "a/b")),
        ("S3://bucket/a/", StoreUrl("s3", "bucket", "a")),
        ("s3://bucket", StoreUrl("s3", "bucket", "")),
        ("s3://minio:9000/bucket/a", StoreUrl("s3", "bucket", "a", "minio:9000")),
        ("s3://[::1]:9000/bucket/a", StoreUrl("s3", "bucket", "a", "[::1]:9000")),
        ("gs://bucket_1/a b", StoreUrl("gs", "bucket_1", "a b")),
        ("az://container/m", StoreUrl("az", "container", "m")),
        ("azure://container/m", StoreUrl("az", "container", "m")),
        ("azfs://share/m", StoreUrl("azfs", "share", "m")),
    ],
)
def test_each_form(text: str, url: StoreUrl) -> None:
    assert parse_store_url(text) == url
    assert parse_store_url(str(url)) == url


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://host/m", "only s3://, gs://"),
        ("s3://key:secret@bucket/m", "credentials must not"),
        ("az://container/m?sig=secret", "credentials must not"),
        ("s3:///m", "the form is s3://bucket/path"),
        ("gs://host:1/bucket/m", "the form is gs://bucket/path"),
        ("s3://bucket/a/../b", "`..`"),
        ("s3://bucket/a//b", "an empty part"),
        ("s3://bucket/a\nb", "cannot be printed"),
    ],
)
def test_what_is_no_url_says_why_and_no_secret(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_store_url(text)
    assert reason in caught.value.message
    assert "secret" not in caught.value.message
    assert "secret" not in without_secrets(text)


def test_each_url_has_a_directory_of_its_own() -> None:
    urls = [
        "s3://b/m",
        "gs://b/m",
        "s3://b/other/m",
        "s3://b",
        "s3://h:1/b/m",
        "s3://b/" + "m" * 500,
        "az://b/ü/*",
    ]
    names = {parse_store_url(url).mirror_of(model) for url in urls for model in ("m", "n")}

    assert len(names) == 2 * len(urls)
    assert all(len(name) < 100 and name.replace("-", "").replace("_", "").isalnum() for name in names)
    assert parse_store_url("s3://b/models/resnet").mirror_of("m").startswith("s3-b-resnet-")


@pytest.mark.parametrize(
    ("url", "path", "found"),
    [
        ("s3://b/config.json", "m", "s3://b/m"),
        ("s3://h:1/b/a/config.json", "c/m", "s3://h:1/b/a/c/m"),
        ("az://b/a/config.json", "m/", "az://b/a/m"),
    ],
)
def test_a_relative_path_begins_beside_the_file(url: str, path: str, found: str) -> None:
    assert str(parse_store_url(url).beside(path)) == found


@pytest.mark.parametrize("path", ["../m", "a//m", "m?x", "a\nb"])
def test_a_relative_path_may_not_be_anything(path: str) -> None:
    with pytest.raises(ConfigError):
        parse_store_url("s3://b/a/config.json").beside(path)
