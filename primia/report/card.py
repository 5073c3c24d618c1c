"""The model card: the facts about a model version, set into mlflow/model_card.md.j2."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from primia.errors import ConfigError, DataError

_MARKUP = re.compile(r"([\\`*\[\]|])")


def render_card(template: Path, *, facts: Mapping[str, Any], plots: Collection[str]) -> str:
    """Fill the template; the result is Markdown whose pictures are plots/<name>.png.

    Text from the results (names, reasons) is escaped: it can neither bring markup nor load anything.

    Args:
        template: Jinja2, with one variable per section of the facts, and `plots`.
        facts: see `primia.review.gates.collect_facts`.
        plots: names of the pictures there are.

    Raises:
        ConfigError: the template is broken.
        DataError: the template asks for a figure that the results lack.
    """
    from jinja2 import Environment, StrictUndefined, TemplateSyntaxError, UndefinedError

    # What comes out is Markdown, so HTML escaping alone would not do: _plain escapes every value instead.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, finalize=_plain, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    for fill in (_number, _signed, _short, _interval, _bytes, _exponential):
        environment.filters[fill.__name__.removeprefix("_")] = _of_what_is_there(fill)
    try:
        return environment.from_string(template.read_text()).render(**facts, plots=plots)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{template}, line {error.lineno}: {error.message}; mend that line.") from error
    except UndefinedError as error:
        raise DataError(
            f"{template} asks for a figure that the results lack ({error.message}); run dvc repro, or correct the "
            "template."
        ) from error


def _of_what_is_there(fill: Callable[..., str]) -> Callable[..., str]:
    """Let a figure that is missing end in Jinja's UndefinedError, which names it, rather than in a TypeError."""

    def checked(value: Any, *arguments: Any) -> str:
        from jinja2 import Undefined

        # str() of a StrictUndefined raises.
        return str(value) if isinstance(value, Undefined) else fill(value, *arguments)

    return checked


def _plain(value: Any) -> Any:
    """Make text inert in Markdown and in the HTML made of it."""
    if not isinstance(value, str):
        return value
    text = re.sub(r"\s+", " ", value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", text)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{_number(figure['low'])} to {_number(figure['high'])}"


def _bytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def _exponential(epsilon: float) -> str:
    """e^ε, as a power of ten where nobody could read the digits."""
    return f"{math.exp(epsilon):,.0f}" if epsilon < 14 else f"about 10^{epsilon / math.log(10):.0f}"
