"""A folder on S3, to which an exported folder or a report is uploaded."""

from __future__ import annotations

from pathlib import Path

from runner.errors import RecipeError
from runner.plan.object_storage import opened


class Bucket:
    """The folder s3://BUCKET/PATH. Raises RecipeError if it cannot be reached, or something is there already."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        with opened(self._address, "--push") as (files, path):
            bucket, _, folder = path.partition("/")
            if not folder:
                raise RecipeError(f"--push: {address}: name a folder in the bucket: s3://BUCKET/PATH")
            files.ls(bucket)  # s3fs finds nothing in a bucket that does not exist
            if files.find(path):
                raise RecipeError(f"--push: {address}: already exists; choose a new folder")

    def push(self, folder: Path) -> str:
        """Upload the files of a folder; returns the address. Raises RecipeError."""
        with opened(self._address, "--push") as (files, path):
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                files.put_file(str(file), f"{path}/{file.relative_to(folder).as_posix()}")
        return self._address
