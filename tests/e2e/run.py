#!/usr/bin/env python3
"""Runs one module of end-to-end tests: run.py MODULE [TestCase[.test]…]

Exit codes: 0 passed, 1 failed, 77 all were skipped (ctest shows that as skipped). The reason of
each skip is printed.
"""

import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
SKIPPED = 77


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    module = sys.argv[1].removesuffix(".py")
    names = ["%s.%s" % (module, name) for name in sys.argv[2:]] or [module]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    for test, reason in result.skipped:
        print("SKIP %s: %s" % (test, reason))
    if not result.wasSuccessful():
        return 1
    # A skipped class counts as no test run.
    if result.skipped and len(result.skipped) >= result.testsRun:
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
