#!/usr/bin/env python3
"""Run a command and say how long it took and how much memory it had at most.

    measure.py REPORT.json COMMAND [ARGUMENT ...]

The command's input and output are this script's own. REPORT.json: {"seconds", "peak_bytes", "exit_code"}, the wall clock from the
start to the end of the process, and the largest resident set that the kernel saw of it. Exits as the command does.
"""

import json
import os
import sys
import time


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    report, command = sys.argv[1], sys.argv[2:]
    start = time.perf_counter()
    # The child's peak begins at what this process has, about 10 MB, since it is the parent's memory until it is the command's.
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    exit_code = os.waitstatus_to_exitcode(status)
    with open(report, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024, "exit_code": exit_code}, file)
    sys.exit(exit_code if exit_code >= 0 else 128 - exit_code)


if __name__ == "__main__":
    main()
