"""Files at an s3:// address, or in a folder that machines share, through fsspec; s3fs reads S3.

Credentials come from the usual chain of AWS: environment variables, a profile, the role of the machine or the pod.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.program import BadInput, StageFailed, is_url

_CONNECT_TIMEOUT = 10  # seconds


class RemoteFolder:
    """The files below an address. What fails raises StageFailed with one line, or FileNotFoundError for a missing file.

    Raises BadInput where the package for the address is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files, self._root = _file_system(self.address)
        self._is_folder = not is_url(self.address)

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        with self._one_line_errors(name):
            return self._files.cat_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, which appears whole."""
        with self._one_line_errors(name), self._appearing(name) as path:
            self._files.pipe_file(path, content)

    def download(self, name: str, path: str) -> None:
        """Copy a file to the local `path`."""
        with self._one_line_errors(name):
            self._files.get_file(self._path(name), path)

    def upload(self, path: str, name: str) -> None:
        """Copy the local file `path` there, where it appears whole."""
        with self._one_line_errors(name), self._appearing(name) as there:
            self._files.put_file(path, there)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        try:
            with self._one_line_errors(name):
                return self._files.size(self._path(name))
        except FileNotFoundError:
            return None

    def listing(self, name: str) -> dict[str, tuple[int, str]]:
        """Size and ETag (empty where there is none) of each file below `name` by its path there, without hidden ones.

        A file that has the name itself is at the path "".
        """
        with self._one_line_errors(name):
            root = self._path(name)
            found = self._files.find(root, detail=True).values()
            files = {entry["name"][len(root) :].lstrip("/"): entry for entry in found if entry["type"] == "file"}
            visible = {
                path: entry for path, entry in files.items() if not any(p.startswith(".") for p in path.split("/"))
            }
            return {path: (entry["size"], entry.get("ETag", "").strip('"')) for path, entry in visible.items()}

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._one_line_errors(name):
            self._files.rm_file(self._path(name))

    def remove_partial(self) -> None:
        """Remove what killed processes left beside the files of a folder; a live one gets FileNotFoundError."""
        if self._is_folder:
            for path in Path(self._root).glob("*.partial"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _appearing(self, name: str) -> Iterator[str]:
        """Where to write a file: on S3 itself, as objects appear whole; in a folder beside it, to be renamed."""
        path = self._path(name)
        if not self._is_folder:
            yield path
            return
        aside = f"{path}.{socket.gethostname()}-{os.getpid()}.partial"
        try:
            yield aside
            os.replace(aside, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)  # noqa: PTH108
            raise

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _one_line_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if _code_of_aws(error) == "NoSuchBucket":
                raise StageFailed(f"{self.address}: no such bucket; create it, or check the name") from None
            raise
        except (OSError, *_errors_of_aws()) as error:
            raise StageFailed(f"{self.address}/{name}: {_reason(error)}") from error


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path there."""
    try:
        import fsspec

        if not is_url(address):
            return fsspec.filesystem("file", auto_mkdir=True), address
        timeouts = {"connect_timeout": _CONNECT_TIMEOUT}
        return fsspec.core.url_to_fs(address, use_listings_cache=False, config_kwargs=timeouts)
    except ImportError:
        package = "s3fs" if is_url(address) else "fsspec"
        raise BadInput(f"{address} needs the package {package}: {sys.executable} -m pip install {package}") from None


def _errors_of_aws() -> tuple[type[Exception], ...]:
    """The errors of the SDK that s3fs uses, if it is loaded."""
    module = sys.modules.get("botocore.exceptions")
    return (module.BotoCoreError, module.ClientError) if module else ()


def _code_of_aws(error: Exception) -> str:
    """The code in S3's answer that an error of s3fs comes from; empty if there is none."""
    answer = getattr(error.__cause__, "response", {})
    return answer.get("Error", {}).get("Code", "")


def _reason(error: Exception) -> str:
    """What happened, and what to try."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"):
        return "no AWS credentials were found: set AWS_PROFILE, or give the machine or pod a role"
    if isinstance(error, PermissionError):
        return f"access denied ({text}): check the AWS credentials and their policy"
    if re.search("Connect|Timeout", kind):
        return f"cannot be reached ({text}): check the network, AWS_REGION and AWS_ENDPOINT_URL"
    return getattr(error, "strerror", None) or text or kind
