"""Files that other packages ship inside their wheels, found without importing the package.

Reading the file ourselves is what keeps loading offline: ``skimage.data`` would try to download
a file that is missing or altered.
"""

from importlib.util import find_spec
from pathlib import Path

__all__ = ["COURSE", "installed_file", "installed_folder"]

# What to type for the packages whose pictures we read.
COURSE = "make lab (or, with pip: pip install 'companion[course]')"


def installed_folder(package: str, *, install: str) -> Path:
    """Folder of an installed package, which is not imported.

    Args:
        package: Import name, such as ``"skimage"``.
        install: What the reader should type when the package is missing.

    Raises:
        ImportError: If ``package`` is not installed; the message holds ``install``.

    Example:
        >>> installed_folder("numpy", install="make lab").name
        'numpy'
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the package {package!r} is not installed; to install it: {install}")
    return Path(spec.submodule_search_locations[0])


def installed_file(package: str, path: str, *, install: str) -> Path:
    """A file of an installed package.

    Raises:
        ImportError: If the package is missing, or ships without the file.
    """
    file = installed_folder(package, install=install) / path
    if not file.is_file():
        raise ImportError(
            f"the installed {package!r} does not hold {path!r}; to install it again: {install}"
        )
    return file
