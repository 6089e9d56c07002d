# SPDX-License-Identifier: Apache-2.0
"""A predict request from its tensors to its results: memory, tasks, workers and their ends. Knows no protocol."""
