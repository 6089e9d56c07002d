# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp devices``: what OpenVINO sees on this machine. A short-lived process of its own, as it imports openvino."""

from __future__ import annotations

import sys

import openvino as ov

from ovms_mp.worker.engine import create_core, engine_text


def describe_devices(core: ov.Core) -> str:
    """One paragraph a device: name, full name, optimization capabilities."""
    lines = [f"OpenVINO {ov.get_version()}"]
    for name in core.available_devices:
        lines.append(name)
        for title, key in (
            ("full name", "FULL_DEVICE_NAME"),
            ("optimization capabilities", "OPTIMIZATION_CAPABILITIES"),
        ):
            try:
                value = core.get_property(name, key)
            except RuntimeError as error:
                value = f"unknown ({engine_text(error)})"
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple, set)) else str(value)
            lines.append(f"  {title}: {text}")
    lines.append("Combinations such as AUTO, MULTI:a,b, HETERO:a,b and BATCH:d(n) are built from these.")
    return "\n".join(lines)


def main() -> int:
    """Print the devices."""
    sys.stdout.write(describe_devices(create_core("")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
