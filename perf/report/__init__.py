# SPDX-License-Identifier: Apache-2.0
"""What figures look like: records of a result file, the machine they are from, tables, the README's plot."""
