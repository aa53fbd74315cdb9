"""What the hub says of a repository, and the bytes of its files. Wraps huggingface_hub; opens no file.

Answers are untrusted: names of files are plain names, sizes are numbers, sums are hexadecimal.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, errors, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import HfApi
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented as public

from bot.hub.catalogue import HubFile
from bot.hub.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

ASK_SECONDS = 20.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOO_MANY = 429
_REFUSED_LINK = {400, 401, 403, 410}


class LinkRefused(Exception):
    """The store does not accept a signed link any more. That says nothing of the account."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one file's bytes are now, and the headers to ask for them with."""

    url: str
    headers: dict[str, str]
    size: int | None
    etag: str | None
    is_of_hub: bool = True
    """Whether the hub serves the bytes itself, and not a store by a signed link."""


def find_file(repo: str, pattern: str) -> tuple[str, HubFile]:
    """The newest commit of a repository, and its one file of this name. Raises HubError."""
    with hub_errors(repo):
        info = HfApi().model_info(repo, files_metadata=True, timeout=ASK_SECONDS)
    found = [each for each in info.siblings or () if fnmatch.fnmatchcase(each.rfilename, pattern)]
    if len(found) != 1 or info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise HubError(f"{repo} does not have one file {pattern}, but {len(found)}. Nothing was fetched.")
    name, size = found[0].rfilename, found[0].size
    sha256 = found[0].lfs.sha256 if found[0].lfs is not None else ""
    if not _NAME.fullmatch(name):
        raise HubError(f"The hub names a file of {repo} that is no plain name. Nothing was fetched.")
    if size is None or size < 0 or not _SHA256.fullmatch(sha256):
        raise HubError(f"The hub states no size or sum of {repo}/{name}. Nothing was fetched.")
    return info.sha, HubFile(name, size, sha256)


def locate(repo: str, revision: str, path: str) -> Source:
    """Where a file is served now. Raises HubError, and RevisionNotFoundError of huggingface_hub."""
    url = hf_hub_url(repo, path, revision=revision)
    with hub_errors(repo, path):
        found: HfFileMetadata = get_hf_file_metadata(url, timeout=ASK_SECONDS)
    headers = build_hf_headers()
    headers["Accept-Encoding"] = "identity"
    is_of_hub = urlsplit(found.location).netloc == urlsplit(url).netloc
    if not is_of_hub:
        headers.pop("authorization", None)  # the token is for the hub, not for where it keeps its bytes
    return Source(found.location, headers, found.size, found.etag, is_of_hub)


def load(repo: str, file: HubFile, source: Source, target: BinaryIO, have: int, size: int) -> None:
    """Append the bytes from `have` on to `target`, which is `size` bytes long in the end. Raises HubError, LinkRefused.

    huggingface_hub goes on by itself after a cut connection; OSErrors of the disk pass.
    """
    with hub_errors(repo, file.path):
        try:
            http_get(
                source.url,
                target,
                resume_size=have,
                headers=source.headers,
                expected_size=size,
                displayed_filename=file.path,
            )
        except errors.HfHubHTTPError as error:
            if source.is_of_hub or error.response.status_code not in _REFUSED_LINK:
                raise
            raise LinkRefused(_reason(error)) from None
        except OSError as error:
            # Its check of the size raises a bare OSError; every other one names its number or is of the network.
            if error.errno is not None or isinstance(error, httpx2.HTTPError | ConnectionError | TimeoutError):
                raise
            target.truncate(0)
            raise HubError(f"{file.path} came with another size than the hub had named. Pull again.") from error


@contextlib.contextmanager
def hub_errors(repo: str, path: str = "") -> Iterator[None]:
    """Turn what huggingface_hub and httpx2 raise into a HubError of one line."""
    try:
        yield
    except errors.RevisionNotFoundError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(_gated(repo), reason=_reason(error)) from None
    except errors.RepositoryNotFoundError as error:
        raise HubError(_missing(repo), reason=_reason(error)) from None
    except errors.EntryNotFoundError as error:
        raise HubError(
            f"{repo} has no file {path} any more. A newer version of guildllama may know where it went.",
            reason=str(error),
        ) from None
    except errors.OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set, so the hub is not asked. Unset it to pull a model.") from None
    except errors.HfHubHTTPError as error:
        raise HubError(_refused(repo, error.response.status_code), reason=_reason(error)) from None
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise HubError(
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}). Check the network, a proxy, or "
            "HF_ENDPOINT, and pull again: it goes on where it stopped.",
            reason=str(error),
        ) from None


def _gated(repo: str) -> str:
    page = f"{constants.ENDPOINT}/{repo}"
    if get_token() is None:
        return (
            f"{repo} is gated: sign in at {page}, accept its licence there, and pull again with a token of your "
            f"account in HF_TOKEN (made at {constants.ENDPOINT}/settings/tokens)."
        )
    return (
        f"{repo} is gated, and the account of your token has no access yet: accept its licence at {page}, and pull "
        "again."
    )


def _missing(repo: str) -> str:
    return (
        f"{constants.ENDPOINT} has no {repo}, or shows it only to some accounts (HF_TOKEN). It may have moved: a newer "
        "version of guildllama may know where."
    )


def _refused(repo: str, status: int) -> str:
    if status in {401, 403}:
        return f"The hub does not accept the token (HF_TOKEN, or `hf auth login`) for {repo}: status {status}."
    if status == _TOO_MANY:
        return "The hub says that there were too many requests. Wait a few minutes, or set HF_TOKEN, and pull again."
    return f"The hub answered {status} for {repo}. Pull again later: it goes on where it stopped."


def _reason(error: errors.HfHubHTTPError) -> str:
    return f"status {error.response.status_code}"
