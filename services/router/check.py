"""Check a policy file: `python -m services.router.check FILE`.

Exit codes: 0 sound, 1 something is fatal, 2 it cannot be read.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .policy_document import read


def main(path: Path) -> int:
    """Print what is to say about the file at `path`."""
    try:
        opened = read(path.read_bytes())
    except OSError as error:
        sys.stderr.write(f"{path}: {error.strerror}\n")
        return 2
    for finding in opened.findings:
        sys.stdout.write(f"{finding}\n")
    if opened.book is None:
        return 1
    document = opened.book.document
    counts = f"{len(document.targets)} targets, {len(document.policies)} named policies, {len(document.rules)} rules"
    sys.stdout.write(f"sound: revision {opened.book.revision}: {counts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
