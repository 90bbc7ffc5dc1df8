"""From a name on the hub to a folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muybridge.engine.checkpoint import FORMAT, MODEL
from muybridge.errors import BadInput, CheckpointError, MissingFile, MuybridgeError

NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>(?!.*\.\.)[\w][\w./-]*))?")
FILES = (".safetensors", ".pt", ".pth", ".pyth", ".bin", ".ckpt", ".json", ".yaml", ".yml", ".mp4")
LOG_IN = "log in with `hf auth login`, or give a token by the variable HF_TOKEN"


def hub_name(source: object) -> tuple[str, str | None] | None:
    """(repository, revision) if this can only be a model on the hub; what is on this machine goes before it.

    Args:
        source: what was asked for.

    >>> hub_name("org/name@v1")
    ('org/name', 'v1')
    """
    if not isinstance(source, (str, Path)):
        return None
    text = source.as_posix() if isinstance(source, Path) else source
    found = NAME.fullmatch(text)
    if found is None or text.lower().endswith(FILES) or Path(text).exists():
        return None
    # `runs/evel`, where there is a folder `runs`, is a slip of the pen and no reason to ask a server.
    if Path(text.partition("/")[0]).exists():
        return None
    return found["repo"], found["revision"]


def fetch(repo: str, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The folder of a model of the hub, in the cache of `huggingface_hub`.

    Its `model.safetensors` is fetched and nothing else, and only after its head says that it is a model of muybridge.
    Without a connection, or with HF_HUB_OFFLINE, what is in the cache is taken.

    Args:
        repo: such as `org/name`.
        revision: a branch, a tag or a commit; None: `main`.
        token: of the hub; None: the one of this machine, if it is logged in.

    Raises:
        MissingFile: there is no such model or revision, or one has to log in.
        CheckpointError: it is no model of muybridge.
        MuybridgeError: it cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    import muybridge

    who: dict[str, Any] = {"library_name": "muybridge", "library_version": muybridge.__version__, "token": token}
    with told(repo, revision):
        if not isinstance(try_to_load_from_cache(repo, MODEL, revision=revision), str):
            head = HfApi(**who).parse_safetensors_file_metadata(repo, MODEL, revision=revision)
            if FORMAT not in (head.metadata or {}):
                raise _not_ours(repo, f"its {MODEL} does not say so")
        return Path(hf_hub_download(repo, MODEL, revision=revision, **who)).parent


def _not_ours(repo: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{repo} is no model of muybridge: {why}. Image transformers are given with --backbone, at the start of a "
        "training (`muybridge list backbones`)."
    )


@contextmanager
def told(repo: str, revision: str | None = None, writing: bool = False) -> Iterator[None]:
    """Errors of the hub's client as sentences.

    Args:
        repo: that is asked for.
        revision: of it.
        writing: it is written to.
    """
    from huggingface_hub import constants, errors

    place = f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except MuybridgeError:
        raise
    except errors.GatedRepoError:
        raise MissingFile(f"{repo} is gated: accept its terms at {place}, and {LOG_IN}.") from None
    except errors.RevisionNotFoundError:
        raise MissingFile(
            f"{repo} has no revision '{revision}'; expected a branch, a tag or a commit that is listed at {place}."
        ) from None
    except errors.RepositoryNotFoundError:
        here = "" if writing else f"There is nothing at {repo} on this machine, and "
        there = f"no model {repo} on the hub ({constants.ENDPOINT})" if here else f"There is no model at {place}"
        raise MissingFile(f"{here}{there}; or it is private: then {LOG_IN}.") from None
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(repo, error.__cause__ or error, constants.ENDPOINT, constants.HF_HUB_OFFLINE) from error
    except errors.EntryNotFoundError:
        raise _not_ours(repo, f"it has no {MODEL}") from None
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError):
        raise _not_ours(repo, f"its {MODEL} is not readable") from None
    except errors.HFValidationError as error:
        raise BadInput(f"'{repo}' cannot be the name of a model on the hub: {str(error).splitlines()[0]}") from None
    except errors.LocalTokenNotFoundError:
        raise BadInput(f"{repo} is written to by those who are known: {LOG_IN}.") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            may = "written to" if writing else "read"
            raise BadInput(f"{repo} may not be {may} with this token or without one: {LOG_IN}.") from error
        raise MuybridgeError(f"The hub ({constants.ENDPOINT}) answered with error {status} for {repo}.") from error
    except Exception as error:  # the client raises errors of several libraries
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3") or (
            isinstance(error, ConnectionError)
        ):
            raise _unreachable(repo, error, constants.ENDPOINT, constants.HF_HUB_OFFLINE, writing) from error
        raise


def _unreachable(
    repo: str, error: BaseException, endpoint: str, offline: bool, writing: bool = False
) -> MuybridgeError:
    why = "HF_HUB_OFFLINE is set" if offline else f"{type(error).__name__}: no connection to {endpoint}"
    if writing:
        return MuybridgeError(f"{repo} cannot be written: the hub cannot be asked ({why}).")
    return MissingFile(
        f"There is nothing at {repo} on this machine or in the cache of the hub, and the hub cannot be asked ({why})."
    )
