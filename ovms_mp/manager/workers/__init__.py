# SPDX-License-Identifier: Apache-2.0
"""Inference workers: which devices and cores have which, and which of them are ready."""
