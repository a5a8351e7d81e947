"""The parts of the launcher that are functions of their arguments."""

from __future__ import annotations

import os
import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.launchers import footprint
from trimtab_work_pools.launchers.child import read_only_at_start, search_path
from trimtab_work_pools.launchers.protocol import Order, read_order, receive, send, write_order


def test_variables_that_only_a_new_interpreter_reads() -> None:
    own = {"LANG": "C.UTF-8", "PYTHONPATH": "/a", "HOME": "/h"}
    assert read_only_at_start({"LANG": "C.UTF-8", "PYTHONPATH": "/b", "PYTHON_VERSION": "3.11"}, own) == ()
    assert read_only_at_start({"PYTHONHASHSEED": "0", "LD_LIBRARY_PATH": "/l"}, own) == (
        "LANG",
        "LD_LIBRARY_PATH",
        "PYTHONHASHSEED",
    )


def test_search_path_is_that_of_a_new_interpreter() -> None:
    now = ["/of/parent", "/lib", "/lib/site-packages"]
    assert search_path(now, "/of/parent", "/of/run:/two", "/work", safe=False) == [
        "/work",
        "/of/run",
        "/two",
        "/lib",
        "/lib/site-packages",
    ]
    assert search_path(now, "/of/parent", "", "/work", safe=True) == ["/lib", "/lib/site-packages"]


def test_what_speaks_against_forking_is_named() -> None:
    files = {0: "/dev/null", 3: "socket:[1]", 4: "socket:[2]", 5: "/dev/nvidiactl", 6: "anon_inode:[eventpoll]"}
    assert footprint.faults(1, {1: "socket:[9]", 3: "socket:[1]"}, own=[3]) == []
    assert footprint.faults(2, files, own=[3]) == [
        "has 2 threads, where a process that forks may have one",
        "holds /dev/nvidiactl open",
        "holds anon_inode:[eventpoll] open",
        "holds socket:[2] open",
    ]


def test_the_footprint_of_this_process_is_seen() -> None:
    ended = threading.Event()
    before, _ = footprint.look()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    with socket.socket() as connection:
        threads, files = footprint.look()
        number = connection.fileno()
    ended.set()
    thread.join()
    assert threads == before + 1
    assert files[number].startswith("socket:")


_TEXT = st.text(st.characters(exclude_characters="\0"))


@given(st.dictionaries(_TEXT, _TEXT), _TEXT)
def test_an_order_arrives_as_it_was_sent(env: dict[str, str], cwd: str) -> None:
    order = Order("run", env, cwd)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        file = write_order(order)
        send(ours, "launch", (file,), id=7)
        os.close(file)
        message = receive(its)
        assert message is not None
        assert (message.kind, message.fields) == ("launch", {"id": 7})
        assert read_order(message.fds[0]) == order
        assert not os.get_inheritable(message.fds[0])
        message.close()
        ours.close()
        assert receive(its) is None


def test_a_long_reason_is_cut_and_bytes_that_are_no_text_arrive() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        send(ours, "failed", id=1, reason="\udcff" * 100_000)
        message = receive(its)
    assert message is not None
    assert set(message.fields["reason"]) == {"\udcff"}
    assert 1_000 < len(message.fields["reason"]) < 10_000
