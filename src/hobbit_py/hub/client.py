"""The one place that knows huggingface_hub: what a repository holds, its files, what can go wrong on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..errors import HobbitError, UsageError
from .choose import RemoteFile


def hub() -> Any:  # noqa: ANN401
    """The module huggingface_hub; raises UsageError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError:
        raise UsageError(
            "Models on the hub need huggingface_hub, which is not installed; install it with "
            "'pip install \"hobbit_py[hub]\"', or give a file."
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence about `what`."""
    errors = hub().errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise HobbitError(
            f"{what} asks for an agreement: accept it on its page and log in with 'hf auth login', then try again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{what} is not on the hub, or is private; check the name, or log in with 'hf auth login'."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise HobbitError(f"The hub answered {status} when asked for {what}; try again later.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise HobbitError(
            f"{what} is not complete on this machine and the hub cannot be reached; connect to the internet and try "
            "again, what was fetched is kept."
        ) from error
    except OSError as error:
        if error.filename is not None:  # the drive, not the network
            raise
        raise HobbitError(f"{what} cannot be fetched ({error}); what was fetched is kept.") from error
    except Exception as error:
        # The HTTP client's own errors derive from no common class of huggingface_hub.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        raise HobbitError(
            f"The hub cannot be reached ({type(error).__name__}): {what} is not complete on this machine; connect to "
            "the internet and try again, what was fetched is kept."
        ) from error


def list_files(repo: str) -> list[RemoteFile]:
    """The files of a repository. Raises HobbitError."""
    with explained(repo):
        info = hub().HfApi().model_info(repo, files_metadata=True)
    return [
        RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs is not None else None)
        for file in info.siblings or []
    ]
