"""Command lines of the scripts in this folder."""

import argparse
from typing import NoReturn

from gcn_flax.printable import one_line


class ArgumentParser(argparse.ArgumentParser):
  """A parser that reports a mistake as every other error: one line on stderr, exit status 1.

  Args:
    module: name of the script's module, for the help page.
    description: text above the flags on the help page.
  """

  def __init__(self, module: str, description: str):
    super().__init__(
      prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )

  def error(self, message: str) -> NoReturn:
    """Ends the process with a message of argparse."""
    self.exit(1, f"error: {one_line(message)}. Run {self.prog} --help for all flags.\n")
