"""The command `cascade`, also `python -m cascade`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; the exit code."""
    try:
        from cascade.command.cli import main as command
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("Error: the command line needs click; pip install 'cascade-vm[cli]'", file=sys.stderr)
        return 2
    return command()


if __name__ == "__main__":
    sys.exit(main())
