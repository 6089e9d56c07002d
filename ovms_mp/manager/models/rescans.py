# SPDX-License-Identifier: Apache-2.0
"""When the manager reads the configuration file and the repositories, and what it does with the result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ovms_mp.defects import contain
from ovms_mp.manager.models.config_file import ConfigFile
from ovms_mp.manager.models.reconciler import Reconciler
from ovms_mp.manager.models.repository import Repository
from ovms_mp.manager.models.stores import merged

if TYPE_CHECKING:
    from ovms_mp.config.server import ServerConfig
    from ovms_mp.manager.clock import Clock
    from ovms_mp.manager.models.catalogue import Catalogue
    from ovms_mp.manager.models.rescan_request import RescanRequest
    from ovms_mp.manager.models.stores import Stores
    from ovms_mp.manager.timers import Timers
    from ovms_mp.manager.workers.provisioner import Provisioner
    from ovms_mp.wire.channels import Poller
    from ovms_mp.wire.records import ConfigRefusal

_DEBOUNCE_S = 0.05
"""A copy makes many events; one look after the first of them sees what they say together."""
_AGAIN_S = 1.0
"""Until what raised is looked at again."""


class Rescans:
    """Owned by the manager's loop."""

    def __init__(
        self,
        config: ServerConfig,
        catalogue: Catalogue,
        stores: Stores,
        provisioner: Provisioner,
        request: RescanRequest,
        poller: Poller,
        timers: Timers,
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            config: Of the server.
            catalogue: What follows from a look is carried out there.
            stores: Told which models come from object stores.
            provisioner: Told which devices are wanted.
            request: Says when.
            poller: Wakes up when inotify has a hint.
            timers: The manager's.
            clock: The manager's.
        """
        self._config = config
        self._catalogue = catalogue
        self._stores = stores
        self._provisioner = provisioner
        self._request = request
        self._timers = timers
        self._repository = Repository(
            config.repository.settle_s, clock, is_watching=config.repository.poll_wait_s > 0
        )
        self._reconciler = Reconciler(catalogue, self._repository, clock)
        self._config_file = ConfigFile.of(config, clock)
        self._hint_descriptor = self._repository.fileno()
        if self._hint_descriptor is not None:
            poller.register(self._hint_descriptor)
        self._is_hint_timed = False
        self.is_changed = False
        """Whether fronts have not heard of :attr:`config_refusal`, or people of :meth:`notes`."""

    def note_snapshot(self, _epoch: int) -> None:
        """What has changed until now is in a snapshot."""
        self.is_changed = False

    def close(self) -> None:
        """Give the descriptor back."""
        self._repository.close()

    @property
    def is_due(self) -> bool:
        """Whether a rescan is due in this turn."""
        return self._request.is_due

    @property
    def is_reading_config(self) -> bool:
        """Whether the configuration file is half-written."""
        return self._config_file is not None and self._config_file.is_being_read

    @property
    def is_reading(self) -> bool:
        """Whether what is wanted is not known yet: a half-written configuration file, or a store that is being read."""
        return self.is_reading_config or self._stores.is_awaited

    def notes(self) -> dict[str, list[str]]:
        """What is odd about models' base paths and stores, for people."""
        return merged(self._stores.notes(), self._repository.notes())

    def momentary_notes(self) -> dict[str, list[str]]:
        """The same, with what goes on at this moment."""
        return merged(self._stores.notes(), self._stores.details(), self._repository.notes())

    def config_notes(self) -> list[str]:
        """What goes on with the store that the configuration file is in."""
        return self._stores.file_notes()

    @property
    def config_refusal(self) -> ConfigRefusal | None:
        """What is wrong with the configuration file as it is now."""
        return None if self._config_file is None else self._config_file.refusal

    def ask(self) -> None:
        """Request a rescan in this turn."""
        self._request.ask()

    def look_now(self) -> None:
        """Request a rescan for a client, whatever the settings say."""
        self._stores.fetch_now()
        self._request.look_now()

    def look_at(self, name: str) -> None:
        """Request a look in this turn at a model that a client wants to be loaded."""
        self._stores.fetch_now(name)
        self._request.ask()

    def is_awaited(self, name: str) -> bool:
        """Whether a look at a model is due, or its store is being read."""
        return self._request.is_due or self._stores.is_awaited_for(name)

    def awaited(self) -> set[str]:
        """Models, by name, whose stores are being read."""
        return self._stores.awaited()

    def store_error(self, name: str) -> str:
        """Why a model's store could not be read the last time; empty where it could, and where there is none."""
        return self._stores.error_of(name)

    def stop(self) -> None:
        """Drop the request: the server is stopping."""
        self._request.drop()

    def poll(self) -> None:
        """From now on look every so often, if the settings want that; less often where a look takes long."""
        if self._config.repository.poll_wait_s > 0:
            self._poll()

    def _poll(self) -> None:
        pause_s = self._repository.pause_s(self._config.repository.poll_wait_s)
        self._timers.call_after(pause_s, self._poll)
        self.ask()

    def take_hints(self, readable: set[int]) -> None:
        """Follow what inotify says a moment later."""
        if self._hint_descriptor not in readable or self._is_hint_timed:
            return
        if self._repository.has_hint():
            self._is_hint_timed = True
            self._timers.call_after(max(_DEBOUNCE_S, self._repository.took_s), self._follow_hint)

    def _follow_hint(self) -> None:
        self._is_hint_timed = False
        self.ask()

    def run_if_due(self) -> None:
        """Look, and carry out what follows: whatever one part raises, the others are done, and all again later."""
        if not self._request.is_due:
            return
        is_asked = self._request.take()
        for part in (
            self._arm,
            partial(self._read_config, is_asked),
            self._follow_stores,
            self._adjust_workers,
            partial(self._reconcile, is_asked),
            # A version that is tried again may bring back a device whose worker could not be started.
            self._adjust_workers,
        ):
            if not contain("manager.plan", "this look", part):
                self._timers.call_after(_AGAIN_S, self.ask)

    def _arm(self) -> None:
        self._repository.arm(self._catalogue.configs, self._config.config_path)

    def _read_config(self, is_asked: bool) -> None:
        may_read = is_asked or self._config.repository.poll_wait_s > 0
        if self._stores.is_file_coming:
            return
        if self._config_file is not None and (may_read or self._config_file.is_being_read):
            before = self._config_file.refusal
            document, again_at = self._config_file.read_if_changed(is_asked=is_asked)
            self.is_changed |= self._config_file.refusal != before
            if document is not None:
                self._catalogue.reconfigure(document.models, document.refused)
                self._arm()
            if again_at is not None:
                self._timers.call_at(again_at, self.ask)

    def _follow_stores(self) -> None:
        self._stores.follow(self._catalogue.configs)

    def _adjust_workers(self) -> None:
        self._provisioner.adjust(self._catalogue.devices(), self._catalogue.devices_in_use())

    def _reconcile(self, is_asked: bool) -> None:
        before = self._repository.notes()
        again_at = self._reconciler.reconcile(is_asked=is_asked)
        self.is_changed |= self._repository.notes() != before
        if again_at is not None:
            self._timers.call_at(again_at, self.ask)
