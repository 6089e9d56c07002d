# SPDX-License-Identifier: Apache-2.0
"""The live page for browsers at ``/ui/``: its files, the events that it draws, and models tried out."""
