# SPDX-License-Identifier: Apache-2.0
"""The service manager, such as systemd, that started this process."""
