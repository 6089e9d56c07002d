# SPDX-License-Identifier: Apache-2.0
"""What a fleet is to do next. Pure: no I/O, no clock; ``decision.decide`` is the way in.

A turn goes: observe all servers, decide, keep the new plan where it survives the controller, give the routes to the
balancers, carry out the actions. Actions are the difference between the plan and what was observed: one is given
again each turn until its effect is observed, and carrying it out twice must do what once does. So a controller may die
anywhere.
"""
