"""A model repository on the Hugging Face hub, to which an exported folder is uploaded."""

from __future__ import annotations

from pathlib import Path

from runner.errors import RecipeError
from runner.plan.stages.fetch import check_hub_name


class Hub:
    """The repository OWNER/NAME. Raises RecipeError for a bad name or token, or without the package huggingface_hub."""

    def __init__(self, repository: str) -> None:
        check_hub_name(repository, "--push")
        try:
            from huggingface_hub import HfApi, errors
        except ImportError:
            problem = "--push needs huggingface_hub: pip install 'trainium-recipes[train]'"
            raise RecipeError(problem) from None
        self._repository, self._api, self._errors = repository, HfApi(), (errors.HfHubHTTPError, OSError)
        try:
            self._api.whoami()
        except (errors.LocalTokenNotFoundError, *self._errors) as error:
            raise self._refused(error, "set HF_TOKEN to a token that may write") from None

    def push(self, folder: Path) -> str:
        """Upload the folder as one commit; a new repository is private. Returns its address. Raises RecipeError."""
        try:
            self._api.create_repo(self._repository, private=True, exist_ok=True)
            self._api.upload_folder(
                repo_id=self._repository, folder_path=folder, commit_message=f"Upload {folder.name}"
            )
        except self._errors as error:
            raise self._refused(error, f"{folder} is complete; try again with huggingface-cli upload") from None
        return f"{self._api.endpoint}/{self._repository}"

    def _refused(self, error: BaseException, advice: str) -> RecipeError:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return RecipeError(f"--push {self._repository}: {reason}; {advice}")
