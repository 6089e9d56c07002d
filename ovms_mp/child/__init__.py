# SPDX-License-Identifier: Apache-2.0
"""How a child process of the manager lives: its start, its specification, its signs of life, its end."""
