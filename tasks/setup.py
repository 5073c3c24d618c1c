"""Taking up a profile: writes its values, and the user's folder, into params.yaml with the comments kept."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from primia.config import Params, parse_params
from primia.errors import ConfigError
from primia.files import write_text

PROFILES = Path("profiles")
PARAMS = Path("params.yaml")
_SYNTHETIC = Path("primia/data/phantom")  # ingest.folder of the phantom, which reads nothing there
_NULL = "tag:yaml.org,2002:null"


def use_profile(profile: str | None, folder: str | None) -> None:
    """Overlay profiles/<profile>.yaml and the data folder on params.yaml; without either nothing changes.

    Raises:
        ConfigError: there is no such profile, the result would not be valid, or there are no images; params.yaml is
            then untouched.
    """
    if profile is None and folder is None:
        return
    yaml = YAML()
    yaml.width = 120
    # An empty value, the library's own way, would change every line with a null.
    yaml.representer.add_representer(type(None), lambda made, _: made.represent_scalar(_NULL, "null"))
    params = yaml.load(PARAMS.read_text())
    if profile is not None:
        path = PROFILES / f"{profile}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(found.stem for found in PROFILES.glob("*.yaml")))
            raise ConfigError(f"There is no profile {profile}; choose one of {known}, or write {path}.")
        _overlay(params, yaml.load(path.read_text()))
    if folder is not None:
        params["ingest"]["folder"] = folder
    changed = StringIO()
    yaml.dump(params, changed)
    given = parse_params(
        YAML(typ="safe").load(changed.getvalue()), where=f"params.yaml with profile {profile or '(none)'}"
    )
    require_images(given)
    write_text(PARAMS, changed.getvalue())
    print(f"params.yaml now holds profile {profile or '(as it was)'}; git checkout params.yaml takes it back.")


def require_images(params: Params) -> None:
    """Say in a sentence that there are no images: DVC, which depends on their folder, would only give an error number.

    Raises:
        ConfigError: the folder of the images was not named, or does not exist.
    """
    folder = Path(params.ingest.folder)
    if params.ingest.source == "phantom":
        return
    if folder == _SYNTHETIC:
        raise ConfigError(
            f"ingest.source is {params.ingest.source}, but no folder of images was named; "
            "add DATA=/path/to/folder (--data), or set ingest.folder in params.yaml."
        )
    if not folder.is_dir():
        raise ConfigError(f"The data folder {folder} does not exist; correct DATA, or ingest.folder in params.yaml.")


def _overlay(base: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            _overlay(base[key], value)
        else:
            base[key] = value
