# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of all REST paths, made from the routes that there are and from what protocols say of them."""
