# SPDX-License-Identifier: MIT
"""The QAPI generator: schema files in, C and documentation out."""
