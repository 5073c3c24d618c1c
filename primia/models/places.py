"""Where a model is: in a folder, or at an address that an installed store of models understands."""

from importlib.metadata import entry_points
from pathlib import Path

from primia.errors import DataError

STORES = "primia.model_stores"  # group of entry points, by the scheme of their addresses


def model_folder(place: str) -> Path:
    """The folder of a model, fetched if it is elsewhere.

    Args:
        place: a folder, or an address such as models:/NAME@champion. Whoever packages a store of models gives an entry
            point of the group `primia.model_stores`, named like the scheme (`models`), that takes an address and
            returns a folder.

    Raises:
        DataError: the folder holds no model, or no store of that scheme is installed.
    """
    scheme, found, _ = place.partition(":/")
    if not found:
        folder = Path(place)
        try:
            there = (folder / "model.json").is_file()
        except OSError:  # a name that is too long
            there = False
        if not there:
            raise DataError(
                f"The folder {folder} holds no model.json; name the folder of a model, or one of a registry, as in "
                "models:/NAME@champion."
            )
        return folder
    for store in entry_points(group=STORES, name=scheme):
        fetched: Path = store.load()(place)
        return fetched
    raise DataError(
        f"No store of models for {scheme}:/ is installed here; name a folder that holds model.json, or install primia "
        "with its pipeline."
    )
