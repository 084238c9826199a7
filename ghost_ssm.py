"""The command `ghost`, by the distribution's name: its packages have common ones, and a user's own may hide them."""

import sys
from importlib.util import find_spec
from pathlib import Path


class HiddenPackageError(ImportError):
    """Something of the user's is imported where a package of ghost's is meant."""


def main() -> None:
    """Entry point: the command line of `flows.cli`, or one line and exit code 2 where that can't be imported."""
    try:
        require_packages("flows")
        from flows.cli import main
    except HiddenPackageError as error:
        print(f"ghost: error: {error}", file=sys.stderr)
        sys.exit(2)
    main()


def require_packages(*names: str) -> None:
    """HiddenPackageError where one of them comes from elsewhere than this file. Imports none of them."""
    for name in names:
        place = _place(name)
        if place and place.resolve() != (Path(__file__).parent / name).resolve():
            raise HiddenPackageError(
                f"{place} hides ghost's package {name!r}; rename it, or take {place.parent} off Python's search path"
            )


def _place(name: str) -> Path | None:
    """The folder or the file that `import name` would take."""
    if (spec := find_spec(name)) is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
