# SPDX-License-Identifier: Apache-2.0
"""``ovms_mp tune``: which settings serve a model best on this machine, found by short runs of a real server.

``candidates`` are what may be set, ``target`` is what best means, ``search`` decides what is measured next and knows
neither server nor clock of its own, ``sandbox`` runs servers that nobody else can reach, ``trials`` measures one
setting there, ``explain`` shows what was found. Loads are those of :mod:`ovms_mp.bench`.
"""
