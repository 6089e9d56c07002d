# SPDX-License-Identifier: Apache-2.0
"""Defects that were found and mended, one test or two each, so that they stay so."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import socket
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_mp.child.specs import WorkerSpec, spec_from_argument
from ovms_mp.cli import effective_config
from ovms_mp.errors import BootError, ConfigError, DtypeMismatch, ProtocolError
from ovms_mp.front.routing import RoutingTable
from ovms_mp.front.tensors import NumberTensor
from ovms_mp.manager.children.child import exit_text
from ovms_mp.manager.fronts.arenas import ArenaPool
from ovms_mp.manager.fronts.listeners import bind_rest, hold_grpc_port, lock_ports
from ovms_mp.manager.models.decision import Decision, Known, decide
from ovms_mp.model.dtypes import DType
from ovms_mp.model.status import State
from ovms_mp.model.tensors import TensorSpec
from ovms_mp.model.versions import Latest
from ovms_mp.wire.arena import create_arena_file
from ovms_mp.wire.channels import Router, new_endpoint
from ovms_mp.wire.codec import decode_to_child, decode_to_front, decode_to_manager, decode_to_worker
from ovms_mp.wire.messages import LoadModel, RoutingSnapshot
from ovms_mp.wire.records import ModelRecord, ModelSettings, VersionRecord, WorkerRecord
from ovms_mp.wire.tasks import InferTask
from tests.unit.front.core import Core

DECODERS = [decode_to_manager, decode_to_child, decode_to_worker, decode_to_front]
HOME = "127.0.0.1"


# D1 planner: two failed versions -> the fallback is forgotten, END, and so loaded again at once, for ever.
def test_the_newest_two_have_failed() -> None:
    known = {n: Known(State.LOADING, has_failed=True, retry_at=110.0 - n) for n in (2, 3)}
    decided = decide({1, 2, 3}, Latest(1), known, 100.0)
    assert decided == Decision((1,), (), (), (), 107.0)


def test_two_broken_versions_settle() -> None:
    broken, known, loads = {2, 3}, dict[int, Known](), 0
    for _ in range(30):
        decided = decide({1, 2, 3}, Latest(1), known, 100.0)
        for version in decided.forget:
            known[version] = Known(State.END)
        for version in decided.load:
            loads += 1
            known[version] = (
                Known(State.LOADING, has_failed=True, retry_at=105.0)
                if version in broken
                else Known(State.AVAILABLE)
            )
    assert loads == 3


# D2 wire/messages.py: decoders let UnicodeDecodeError and RecursionError out.
@pytest.mark.parametrize("payload", [b"\x81\xa4type\xa2\xff\xff", b"\x81\xa1a" * 100_000])
def test_bytes_that_are_no_message(payload: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(ProtocolError):
            decode(payload)


@given(payload=st.binary())
def test_any_bytes(payload: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(payload)
        except ProtocolError:
            pass


@given(cut=st.data())
def test_mutated_messages(cut: st.DataObject) -> None:
    message = LoadModel(
        1,
        "m\u00fc",
        2,
        "/models/m",
        msgspec.convert(
            {
                "device": "CPU",
                "nireq": 0,
                "plugin_config": {"A": 1},
                "inputs": {},
                "allow_cache": False,
                "max_queue_tasks": 1,
                "max_queue_bytes": 1,
            },
            ModelSettings,
        ),
    )
    payload = bytearray(msgspec.msgpack.encode(message))
    payload[cut.draw(st.integers(0, len(payload) - 1))] = cut.draw(st.integers(0, 255))
    try:
        decode_to_child(bytes(payload))
    except ProtocolError:
        pass


# D3 listeners: a held port that nobody listens on yet can be bound by a second server.
def test_a_second_server_is_noticed_before_fronts_listen() -> None:
    (held,) = hold_grpc_port((HOME,), 0)
    port = held.getsockname()[1]
    (lock,) = lock_ports((HOME,), port, "gRPC")
    with held, lock, pytest.raises(BootError, match="another ovms_mp has it"):
        lock_ports((HOME,), port, "gRPC")


def test_a_second_rest_server_is_noticed_before_it_listens() -> None:
    (held,) = bind_rest((HOME,), 0)
    port = held.getsockname()[1]
    (lock,) = lock_ports((HOME,), port, "REST")
    with held, lock, pytest.raises(BootError, match="another ovms_mp has it"):
        lock_ports((HOME,), port, "gRPC")


@pytest.mark.parametrize("address", ["a..b", "x" * 70])
def test_an_address_that_no_resolver_takes(address: str) -> None:
    with pytest.raises(BootError, match="--rest_bind_address"):
        bind_rest((address,), 1)


# D4 dispatch: wait_idle is not woken when the last flights end with their reaped worker.
def test_idle_after_the_worker_is_gone() -> None:
    async def body() -> None:
        descriptor = create_arena_file(0, 1 << 20)
        dispatcher = Core(descriptor).dispatcher
        endpoint = new_endpoint()
        router = Router(endpoint)
        record = VersionRecord(1, 30, 0, "", 5, (endpoint,), 1, "", (), ())
        worker = WorkerRecord("worker-0", "CPU", 1, (0,), endpoint)
        table = RoutingTable(RoutingSnapshot(1, False, (worker,), (), (ModelRecord("m", 1, (record,)),)))
        dispatcher.keep_links((endpoint,))
        task = InferTask(1, 5, (), 0, 0, time.monotonic_ns() + 10**12)
        call = asyncio.ensure_future(dispatcher.infer(table.find("m", 1), task, ()))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(dispatcher.wait_idle(1.0))
        await asyncio.sleep(0)
        dispatcher.keep_links(())
        for _ in range(5):
            await asyncio.sleep(0)
        is_idle = waiting.done()
        await asyncio.gather(waiting, call, return_exceptions=True)
        dispatcher.close()
        router.close()
        os.close(descriptor)
        assert is_idle

    asyncio.run(body())


# D6 arenas: an unknown index ends the manager's loop.
def test_an_unknown_arena_changes_nothing() -> None:
    pool = ArenaPool(1, 4096)
    try:
        pool.released("w", 99, 1)
    finally:
        pool.close()


# D7 convert.
def converted(values: np.ndarray, source: DType, wanted: DType) -> np.ndarray:
    place = bytearray(wanted.itemsize * max(1, len(values)))
    spec = TensorSpec.of("x", wanted, ((1, -1),))
    NumberTensor(source, (max(1, len(values)),), values).write(spec, memoryview(place))
    return np.frombuffer(place, wanted.numpy)


def test_infinity_is_not_nan() -> None:
    with pytest.raises(DtypeMismatch):
        converted(np.array([math.inf], np.float32), DType.FP32, DType.FP8_E4M3)


def test_no_bf16_value_at_all_is_false() -> None:
    assert converted(np.array([], DType.BF16.numpy), DType.BF16, DType.BOOL).tolist() == [False]


def test_a_signalling_nan_is_refused_without_a_warning() -> None:
    with pytest.raises(DtypeMismatch):
        converted(np.frombuffer(b"\x01\x00\x80\x7f", np.float32), DType.FP32, DType.INT8)


# D8 command line and file.
def write(tmp_path: Path, content: bytes) -> list[str]:
    (tmp_path / "c.json").write_bytes(content)
    return ["--config_path", str(tmp_path / "c.json")]


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b"[" * 100_000])
def test_a_file_that_is_no_json_in_other_ways(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"is not valid:\n.*(JSON|levels)"):
        effective_config(write(tmp_path, content), {}, "config")


def test_a_flag_with_bytes_that_are_no_utf8() -> None:
    with pytest.raises(ConfigError):
        effective_config(
            ["--model_name", "m", "--model_path", "p", "--plugin_config", '{"a": "\udcff"}'], {}, "model"
        )


def test_spec_with_bytes_that_are_no_utf8() -> None:
    with pytest.raises(BootError):
        spec_from_argument("\udcff", WorkerSpec)


def test_policy_that_is_no_json_names_its_flag_once() -> None:
    with pytest.raises(ConfigError) as caught:
        effective_config(
            ["--model_name", "m", "--model_path", "p", "--model_version_policy", "x"], {}, "model"
        )
    assert caught.value.message.count("--model_version_policy") == 1


def test_config_without_a_file_names_the_flag_that_it_takes() -> None:
    with pytest.raises(ConfigError, match="--config_path is missing"):
        effective_config([], {}, "config")


# D9 children: signals 35 to 63 have no name.
def test_real_time_signals() -> None:
    assert exit_text(-40).startswith("killed by signal 40")


def test_bind_failure_leaves_no_socket_open() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.2", 0))
        busy.listen()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        try:
            bind_rest((HOME, "127.0.0.2"), busy.getsockname()[1])
        except BootError as error:
            kept = error  # As the manager does while it logs it.
            assert len(os.listdir("/proc/self/fd")) == before, kept


def test_all_addresses_are_one_address_in_either_spelling() -> None:
    (lock,) = lock_ports(("0.0.0.0",), 54321, "REST")
    with lock, pytest.raises(BootError, match="--port"):
        lock_ports(("[::]",), 54321, "gRPC")
