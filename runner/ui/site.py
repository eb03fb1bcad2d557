"""What all pages share while the server runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from runner.execute.run_folder import is_record
from runner.record.runs import Run
from runner.ui.errors import not_found
from runner.ui.index import Index
from runner.ui.machines import Machines


@dataclass(frozen=True)
class Site:
    """The folder of the run records that the pages show, and what the machines of runs elsewhere said."""

    folder: Path
    machines: Machines = field(default_factory=Machines)

    @cached_property
    def index(self) -> Index:
        """What is known of the runs in the folder."""
        return Index(self.folder, self.machines)

    def run(self, name: str) -> Run:
        """The run of exactly this name; of a trial SWEEP/NUMBER. Raises BadRequest if there is none."""
        if not {"", ".", ".."} & set(name.split("/")):
            for folder in (self.folder / name, self.folder / "sweeps" / name):
                if is_record(folder) and Run(folder).name == name:
                    return Run(folder.absolute())
        raise not_found(f"{name}: no such run in {self.folder}")
