# SPDX-License-Identifier: Apache-2.0
"""Processes: how they are started, watched, ended and collected."""
