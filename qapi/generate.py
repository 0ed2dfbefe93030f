#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Generate C code and documentation from the QAPI schema; see README.md."""

import sys

sys.dont_write_bytecode = True

from gen.main import main   # noqa: E402

if __name__ == '__main__':
    main()
