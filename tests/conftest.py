"""What all tests share."""

import os
import signal

from hypothesis import settings

# A test run that a shell started in the background ignores Ctrl-C, and so would every process that a test starts and
# interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that a test fails with the change that broke it; HYPOTHESIS_PROFILE=explore draws
# new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
