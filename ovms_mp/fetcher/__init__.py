# SPDX-License-Identifier: Apache-2.0
"""The fetcher: downloads models from object stores into mirrors, local directories like those that a user makes."""
