# SPDX-License-Identifier: Apache-2.0
"""From a model's files to a compiled version whose answers are proven."""
