# SPDX-License-Identifier: Apache-2.0
"""OpenVINO itself: devices, properties, affinity, cache."""
