# SPDX-License-Identifier: Apache-2.0
"""Load measurements of the server beside its floors; run from a checkout as ``python -m perf``.

Not installed. A floor is what the same machine does without the server's own work: a bare echo over the same
transport, the same model called directly, the same JSON parsed by one core. Only the ratio of the two, taken
in the same run, says something; see ``run.py`` for the order of things and ``scenarios/`` for what is
measured.
"""
