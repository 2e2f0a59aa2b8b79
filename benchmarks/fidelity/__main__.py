"""Print the table; exit with 1 when a video differs more than it may."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path

import torch

from benchmarks.fidelity import released, tiny, verdict


def main() -> None:
    """Compare the released models first, then the little checkpoints."""
    torch.set_num_threads(1)
    wrong = 0
    print("| model | reference | mode | against the reference | resumed after every step |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for subject in chain(released.subjects(Path(folder)), tiny.subjects(Path(folder))):
            for case in subject.cases:
                difference, resumed = subject.difference(case), subject.difference_when_resumed(case)
                wrong += not difference <= case.bound or resumed != 0
                said = [subject.name, subject.reference_name(case), case, case.verdict(difference), verdict(resumed)]
                print(f"| {' | '.join(map(str, said))} |", flush=True)
    if wrong:
        raise SystemExit(f"{wrong} videos differ")


if __name__ == "__main__":
    main()
