# SPDX-License-Identifier: MIT
"""Scenarios that drive the running server, and their vocabulary."""
