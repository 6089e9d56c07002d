# SPDX-License-Identifier: Apache-2.0
"""The models under test: their signatures, files and builders. Builders are programs; only they import OpenVINO."""
