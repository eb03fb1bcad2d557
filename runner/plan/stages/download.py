"""What the recipe names by s3:// addresses → local copies, for the stages that read them."""

from __future__ import annotations

from collections.abc import Iterable

from runner.compose.schema import Recipe
from runner.plan import initial_adapter
from runner.plan.checks import row_files
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand
from runner.plan.packages import S3


def model(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    """The command that copies the model and the tokenizer; None if both are elsewhere."""
    named = [recipe.model.path, *([recipe.model.tokenizer] if recipe.model.tokenizer else [])]
    return _command("download_model", f"copy the base model {recipe.model.name} from S3", named, artifacts)


def data(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    """The command that copies the rows; None if they are elsewhere."""
    named = [*recipe.dataset.paths, *([recipe.dataset.eval_path] if recipe.dataset.eval_path else [])]
    paths = [str(path) for name in named if name for path in row_files.named(name)]
    return _command("download_data", f"copy the rows of {recipe.dataset.name} from S3", paths, artifacts)


def adapter(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    """The command that copies the adapter to continue; None if it is elsewhere."""
    named = [str(initial_adapter.folder(recipe).resolve())] if recipe.train.init_adapter else []
    return _command("download_adapter", "copy the adapter to continue from S3", named, artifacts)


def _command(stage: str, title: str, paths: Iterable[str], artifacts: Artifacts) -> StageCommand | None:
    """Each file or folder goes to a numbered folder, so that equal names do not meet."""
    args: list[str | Argument] = []
    preview = artifacts.place.preview
    addresses = dict.fromkeys(address for path in paths if (address := artifacts.address(path)))
    if not preview:
        return None
    for number, address in enumerate(addresses):
        name = address.rpartition("/")[2]
        listing = preview.listing(address)
        args += ["--copy", Argument(address, ""), f"{number}/{name}", listing]
        artifacts.downloads[address] = (stage, f"{number}/{name}")
    if not args:
        return None
    return StageCommand(title, "download.py", [*args, "--output", OUTPUT], resumable=True, uses=[S3], pushed=False)
