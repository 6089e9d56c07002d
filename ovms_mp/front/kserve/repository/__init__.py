# SPDX-License-Identifier: Apache-2.0
"""KServe's model repository extension: which models there are, and loading and unloading them."""
