"""What all tests share."""

import signal

# A test run that a shell started in the background ignores Ctrl-C, and so would every process that a test starts and
# interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
