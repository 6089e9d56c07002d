# SPDX-License-Identifier: Apache-2.0
"""Models from object stores: the same cases for each store, each case with a model of its own in one server.

Between the server and the store is a network that can be made to misbehave.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ovms_mp.model import own_metrics as names
from tests.support import rest_client
from tests.support.ledger import Ledger, assert_nothing_left
from tests.support.metrics_clients import Page
from tests.support.object_stores import INSTALL, Azurite, Gcs, Moto, ObjectStore, S3rver
from tests.support.server import Server, free_ports
from tests.support.status import local_status
from tests.support.tcp_proxy import Proxy, Weather, proxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.models import ModelZoo

X = np.arange(10, dtype=np.float32)[None]
NOTICED_S = 30.0
DOWNLOADED_S = 240.0
OTHER_OBJECTS = 1200
"""More than a page of a listing."""
BALLAST_BYTES = 24 << 20
"""Six parts. Moto copies all of the object for each that it is asked for."""
CONFIG = "config.json"
ALL: dict[str, Any] = {"all": {}}
MODELS: dict[str, dict[str, Any]] = {
    "one": {},
    "both": {"model_version_policy": ALL},
    "specific": {"model_version_policy": {"specific": {"versions": [1, 9]}}},
    "growing": {},
    "vanishing": {"model_version_policy": ALL},
    "changing": {},
    "cut": {},
    "odd": {},
    "back": {},
}
STORES: dict[str, type[ObjectStore]] = {"moto": Moto, "s3rver": S3rver, "gcs": Gcs, "azurite": Azurite}


@dataclass(frozen=True)
class Site:
    """A store with models, the network before it, and a server that serves them."""

    store: ObjectStore
    network: Proxy
    server: Server
    zoo: ModelZoo
    root: Path

    def put(self, name: str, model: str, version: int) -> None:
        self.store.put_version(self.zoo.base_path(name) / "1", model, version)

    def states(self, model: str) -> dict[int, str]:
        reply = rest_client.request(self.server.rest_port, "GET", f"/v1/models/{model}")
        if reply.status != 200:
            return {}
        return {int(entry["version"]): entry["state"] for entry in reply.json()["model_version_status"]}

    def serves(self, model: str, *versions: int, within_s: float = NOTICED_S) -> None:
        def available() -> bool:
            return [n for n, state in sorted(self.states(model).items()) if state == "AVAILABLE"] == list(
                versions
            )

        eventually(
            available, within_s, f"{model} serves {versions}: {self.states(model)}\n{self.server.log()}"
        )

    def answer(self, model: str) -> float:
        reply = rest_client.predict(self.server.rest_port, model, {"inputs": X.tolist()})
        assert reply.status == 200, reply.text()
        return float(reply.json()["outputs"][0][0])

    def notes(self, model: str) -> str:
        return "\n".join(self.status()["models"].get(model, {}).get("notes", ()))

    def status(self) -> dict[str, Any]:
        return local_status(self.server)

    def configure(self, *others: dict[str, Any]) -> None:
        """Serve what is served always, and others."""
        self.store.put({CONFIG: configuration(self.store, others)})


def configuration(store: ObjectStore, others: Sequence[dict[str, Any]] = ()) -> bytes:
    # Relative paths begin where the file is.
    entries = [{"name": name, "base_path": name, **settings} for name, settings in MODELS.items()]
    elsewhere = {"name": "elsewhere", "base_path": f"{store.scheme}://no-such-bucket/m"}
    return json.dumps(
        {"model_config_list": [{"config": entry} for entry in (*entries, elsewhere, *others)]}
    ).encode()


@pytest.fixture(scope="module", params=STORES)
def site(
    request: pytest.FixtureRequest, zoo: ModelZoo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    kind = STORES[request.param]
    if not kind.is_installed():
        pytest.skip(f"{request.param} is not installed; {INSTALL} does it")
    root = tmp_path_factory.mktemp("stores")
    (port,) = free_ports(1)
    before = Ledger.take()
    with kind.running(root) as store, proxy(port, store.port, root) as network:
        for model in MODELS:
            store.put_version(zoo.base_path("tiny") / "1", model, 1)
        for model in ("both", "specific", "vanishing"):
            store.put_version(zoo.base_path("plus_two") / "1", model, 2)
        if store.has_any_names:
            store.put({"odd/1/variables/": b"", "odd/1/a//b": b"harm", "odd/1/model.xml/c": b"harm"})
        store.put({CONFIG: configuration(store)})
        url = f"{store.scheme}://models/{CONFIG}"
        arguments = ["config", "--config_path", url, "--store_dir", str(root / "mirrors"), "--metrics_enable"]
        server = Server(arguments, root / "server.log", environment=store.environment(port))
        with server:
            yield Site(store, network, server, zoo, root)
        log = server.log()
    assert store.secret not in log
    assert "event=defect" not in log
    assert_nothing_left(before)


def test_one_version_is_served(site: Site) -> None:
    site.serves("one", 1)
    assert site.answer("one") == 1.0


def test_fetches_are_counted(site: Site) -> None:
    site.serves("one", 1)
    page = Page(site.server.rest_port)
    model_nbytes = sum(path.stat().st_size for path in (site.zoo.base_path("tiny") / "1").iterdir())
    assert page.value(names.FETCHED_BYTES) >= model_nbytes
    assert page.value(names.FETCHES, result="success") >= 1
    assert page.value(f"{names.LOAD_SECONDS}_count", phase="fetch") >= 1
    # Of the bucket that does not exist.
    eventually(
        lambda: Page(site.server.rest_port).value(names.FETCHES, result="failure") >= 1,
        NOTICED_S,
        "a failure",
    )


def test_policies_choose_what_is_downloaded(site: Site) -> None:
    site.serves("both", 1, 2)
    site.serves("specific", 1)
    mirrors = {path.name.split("-")[2]: path for path in (site.root / "mirrors").iterdir()}
    assert {path.name for path in mirrors["both"].glob("[0-9]*")} == {"1", "2"}
    assert {path.name for path in mirrors["specific"].glob("[0-9]*")} == {"1"}


def test_a_new_version_is_served_instead(site: Site) -> None:
    site.serves("growing", 1)
    site.put("plus_two", "growing", 2)
    site.serves("growing", 2)
    assert site.answer("growing") == 2.0


def test_a_version_that_vanishes_is_unloaded(site: Site) -> None:
    site.serves("vanishing", 1, 2)
    site.store.remove("vanishing/2/")
    site.serves("vanishing", 1)
    assert site.states("vanishing")[2] in ("UNLOADING", "END")


def test_content_that_changes_in_place_is_told_and_loaded_when_asked(site: Site) -> None:
    site.serves("changing", 1)
    # Over what is there: between a removal and an upload there would be no version.
    site.put("plus_two", "changing", 1)

    def is_told() -> bool:
        return (
            "changed on disk"
            in rest_client.request(site.server.rest_port, "GET", "/v1/models/changing").text()
        )

    eventually(lambda: is_told() or site.answer("changing") == 2.0, NOTICED_S, "the change is noticed")
    reply = rest_client.request(site.server.rest_port, "POST", "/v1/config/reload")
    assert reply.status in (200, 201) or "elsewhere" in reply.text(), "of others it says what it is told"
    eventually(lambda: site.answer("changing") == 2.0, NOTICED_S, "the new content is served")


def test_other_objects_do_not_matter(site: Site) -> None:
    site.put("tiny", "many", 1)
    site.store.put_many("many/data/", OTHER_OBJECTS)
    site.configure({"name": "many", "base_path": "many"})
    site.serves("many", 1)
    site.put("plus_two", "many", 2)
    site.serves("many", 2)
    site.configure()  # Listing them is work for the emulators, which others wait for.


def test_odd_names_are_told(site: Site) -> None:
    site.serves("odd", 1)
    if not site.store.has_any_names:
        return  # It keeps objects as files, and cannot have these itself.
    assert "a//b is left out: its name has an empty part" in site.notes("odd")
    assert "model.xml is an object itself" in site.notes("odd")


def test_a_bucket_that_does_not_exist_is_named(site: Site) -> None:
    text = eventually(lambda: site.notes("elsewhere"), NOTICED_S, "a note")

    assert "no-such-bucket does not exist" in text


def test_a_download_whose_connection_is_cut_goes_on(site: Site) -> None:
    site.serves("cut", 1)
    files = {path.name: path.read_bytes() for path in (site.zoo.base_path("plus_two") / "1").iterdir()}
    ballast = np.random.default_rng(1).bytes(BALLAST_BYTES)
    already = site.network.cuts()
    site.network.set(Weather(cuts=5, cut_after=1 << 20))
    site.store.put({"cut/2/ballast.dat": ballast, **{f"cut/2/{name}": data for name, data in files.items()}})
    site.serves("cut", 2, within_s=DOWNLOADED_S)
    site.network.set(Weather())
    assert site.network.cuts() - already == 5
    (mirror,) = (site.root / "mirrors").glob("*-models-cut-*")
    assert (mirror / "2" / "ballast.dat").read_bytes() == ballast
    site.store.remove("cut/2/")


def test_what_serves_goes_on_while_the_store_is_away(site: Site) -> None:
    site.serves("back", 1)
    site.store.kill()
    try:
        text = eventually(
            lambda: "tried again at" in (notes := site.notes("back")) and notes, NOTICED_S, "it is told"
        )
        assert "cannot be reached" in str(text)
        told = eventually(lambda: site.status().get("configuration_notes"), NOTICED_S, "of the file, too")
        assert "cannot be reached" in str(told)
        assert site.answer("back") == 1.0
    finally:
        # What has to be put back must not be seen before it is complete.
        site.network.set(Weather(is_down=True))
        site.store.come_back()
        site.network.set(Weather())
    eventually(lambda: not site.notes("back"), 2 * NOTICED_S, "it is over")
    site.put("plus_two", "back", 2)
    site.serves("back", 2)


def test_the_configuration_file_is_followed(site: Site) -> None:
    late = {"name": "late", "base_path": f"{site.store.scheme}://models/one"}
    site.configure(late)
    site.serves("late", 1)
    assert site.answer("late") == 1.0
    site.configure()
    eventually(lambda: not site.states("late"), NOTICED_S, "it goes again")


def test_a_configuration_file_that_is_none_changes_nothing(site: Site) -> None:
    site.store.put({CONFIG: b'{"model_config_list": ['})
    try:
        told = eventually(lambda: site.status()["configuration"], NOTICED_S, "it is told")
        assert isinstance(told, dict)
        assert told["is_refused_whole"]
        assert site.answer("one") == 1.0
    finally:
        site.configure()
    eventually(lambda: not site.status()["configuration"], NOTICED_S, "it is over")


def test_a_configuration_file_that_vanishes_changes_nothing(site: Site) -> None:
    site.store.remove(CONFIG)
    try:
        told = eventually(lambda: site.status().get("configuration_notes"), NOTICED_S, "it is told")
        assert f"{CONFIG} does not exist" in str(told)
        assert site.answer("one") == 1.0
    finally:
        site.configure()
    eventually(lambda: not site.status().get("configuration_notes"), NOTICED_S, "it is over")


def test_after_a_restart_without_the_store_what_is_here_serves(
    site: Site, log_path: Path, tmp_path: Path
) -> None:
    site.serves("one", 1)
    mirrors = tmp_path / "mirrors"
    for mirror in (site.root / "mirrors").glob("*-models-one-*"):
        shutil.copytree(mirror, mirrors / mirror.name)
    (mirror,) = (site.root / "mirrors").glob("*-models-config.json-*")
    shutil.copytree(mirror, mirrors / mirror.name)
    arguments = ["config", "--config_path", f"{site.store.scheme}://models/{CONFIG}"]
    (port,) = free_ports(1)
    environment = site.store.environment(port)
    with Server([*arguments, "--store_dir", str(mirrors)], log_path, environment=environment) as server:
        alone = dataclasses.replace(site, server=server)
        alone.serves("one", 1)
        assert alone.answer("one") == 1.0
        assert "cannot be reached" in alone.notes("one")
        assert "cannot be reached" in str(alone.status()["configuration_notes"])


def test_wrong_credentials_are_named_and_not_shown(site: Site, log_path: Path, tmp_path: Path) -> None:
    if site.store.why_no_locks:
        pytest.skip(site.store.why_no_locks)
    arguments = ["model", "--model_name", "one", "--model_path", f"{site.store.scheme}://models/one"]
    environment = site.store.wrong_environment(site.store.port)
    with Server(
        [*arguments, "--store_dir", str(tmp_path / "m")], log_path, environment=environment
    ) as server:
        text = dataclasses.replace(site, server=server).notes("one")
    assert "check the credentials" in text
    assert "wrong-secret" not in text + log_path.read_text()
