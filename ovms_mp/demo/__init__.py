# SPDX-License-Identifier: Apache-2.0
"""A small real model with real inputs: `ovms_mp demo` shows the whole server at work on one machine.

``digits`` is pure, ``check`` is the client of both protocols, ``command`` runs the server as a child process,
``export`` writes the model to a directory, and ``train`` made it. No server process imports this package.
"""
