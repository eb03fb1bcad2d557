"""Files of a Hugging Face Hub repository, through the hub's own cache and token rules.

The token comes from HF_TOKEN or from the file that `hf auth login` wrote, never from a flag.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from common import events
from common.program import BadInput

FORMATS = (".parquet", ".jsonl", ".json", ".csv")
SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
NOT_DATA = {"dataset_infos.json", "config.json"}


def download(repo_id: str, revision: str | None, patterns: Sequence[str], repo_type: str = "model") -> Path:
    """Fetch the files that match `patterns` and return the folder that holds them (in the hub's cache).

    Raises BadInput for a repository that is absent, private or gated, and for a network that does not answer.
    """
    from huggingface_hub import constants, errors, snapshot_download

    address = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
    try:
        folder = snapshot_download(
            repo_id, repo_type=repo_type, revision=revision, allow_patterns=list(patterns), tqdm_class=_reporter()
        )
    except errors.HFValidationError as error:
        raise BadInput(f"--hub {repo_id}: not a name on the hub, which is owner/name") from error
    except errors.GatedRepoError as error:
        raise BadInput(f"--hub {repo_id}: gated: accept its terms at {address} and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise BadInput(f"--hub {repo_id}: no such {repo_type}, or private: check {address}, set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise BadInput(f"--hub {repo_id}: no revision {revision}: see {address}/tree/main") from error
    except (errors.HfHubHTTPError, *_transport_errors(), OSError) as error:
        raise BadInput(f"--hub {repo_id}: {_reason(error, address)}") from error
    return Path(folder)


def dataset_files(repo_id: str, revision: str | None, split: str, config: str | None = None) -> list[Path]:
    """The files of one split of a data set: those whose path names the split, or all where none names any.

    A configuration (the hub's "subset") is the folder that has its name. Of several formats the first of Parquet,
    JSONL, JSON and CSV is taken.
    """
    folder = download(repo_id, revision, [f"*{suffix}" for suffix in FORMATS], repo_type="dataset")
    files = sorted(path for path in folder.rglob("*") if path.suffix in FORMATS and path.name not in NOT_DATA)
    if config:
        files = [path for path in files if config in path.relative_to(folder).parent.parts]
    best = min((FORMATS.index(path.suffix) for path in files), default=0)
    files = [path for path in files if path.suffix == FORMATS[best]]
    words = {path: set(re.split("[^a-z]+", str(path.relative_to(folder)).lower())) for path in files}
    if any(words[path] & SPLITS for path in files) or split != "train":
        files = [path for path in files if split.lower() in words[path]]
    if not files:
        of_config = f" of the configuration {config!r}" if config else ""
        raise BadInput(
            f"--hub {repo_id}: no file of the split {split!r}{of_config} as {', '.join(FORMATS)}; use --input"
        )
    folders = sorted({path.parent.relative_to(folder).as_posix() for path in files})
    if len(folders) > 1:
        raise BadInput(f"--hub {repo_id}: several configurations: {', '.join(folders)}; name one with --hub-config")
    return files


def _reason(error: Exception, address: str) -> str:
    """What happened. Behind "not in the cache" huggingface_hub hides what the hub answered, if it did."""
    responses = [getattr(each, "response", None) for each in (error, error.__cause__)]
    status = next((response.status_code for response in responses if response is not None), None)
    if status in (401, 403):
        return f"the hub refuses access ({status}): check the name, and that HF_TOKEN may read {address}"
    if status:
        return f"the hub answered {status}: try again later"
    absent = isinstance(error, FileNotFoundError)
    reason = "is unreachable and not in the cache" if absent else f"broke off ({error})"
    return f"{address} {reason}: check the network, or use a local copy"


def _transport_errors() -> tuple[type[Exception], ...]:
    """The error of whichever HTTP client the installed huggingface_hub brought in (requests' is an OSError)."""
    return tuple(sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules)


def _reporter() -> type:
    """A tqdm bar that tells the files done as progress events and shows nothing itself."""
    from tqdm.auto import tqdm

    class FilesDone(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if self.unit == "it" and self.total:
                events.progress(int(self.n), int(self.total), "file")

    return FilesDone
