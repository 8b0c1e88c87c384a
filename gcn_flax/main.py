"""Command-line entry point: `python -m gcn_flax --help`."""

import sys
from collections.abc import Sequence

from gcn_flax import command_line, file_locks
from gcn_flax.interrupts import interruptible
from gcn_flax.printable import print_error


@interruptible
def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; `argv` is that of the process by default.

  Returns the exit status: 0; 1 with one line on stderr for a mistake of the user; `distributed.STOPPED` if a signal
  stopped a training that resumes when it is started again; `interrupts.INTERRUPTED` if Ctrl-C ended anything else.
  """
  argv = sys.argv if argv is None else argv
  if command_line.asks_for_help(argv):
    print(command_line.help_page())
    return 0
  try:
    file_locks.check_system()
    config, given = command_line.parse(argv)
  except ValueError as error:
    print_error(error)
    return 1
  from gcn_flax import commands  # Imports JAX: the help page and mistakes on the command line need not wait for it.

  return commands.run(config, given)


if __name__ == "__main__":
  sys.exit(main())
