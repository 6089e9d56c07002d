# SPDX-License-Identifier: Apache-2.0
"""Whether the system permits a system call to a thread of this process, found out by trying."""

from __future__ import annotations

import threading
from collections.abc import Callable


def is_permitted(change: Callable[[int], None]) -> bool:
    """Whether a thread may do this to itself; tried by one that ends at once, so nothing stays changed.

    Args:
        change: Is given the thread's id (see gettid(2)). An OSError of it means no: EPERM, or whatever a sandbox says.
    """
    answers: list[bool] = []

    def try_it() -> None:
        try:
            change(threading.get_native_id())
        except OSError:
            answers.append(False)
        else:
            answers.append(True)

    thread = threading.Thread(target=try_it, name="permission-trial")
    thread.start()
    thread.join()
    return answers == [True]
