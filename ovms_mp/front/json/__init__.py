# SPDX-License-Identifier: Apache-2.0
"""JSON as every protocol's REST form reads and writes it: numbers, lists of them, long bodies in turns."""
