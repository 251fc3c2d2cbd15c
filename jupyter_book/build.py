"""Build the site into ``jupyter_book/_build/html``: what ``make book`` runs.

The pages lie in ``course/``; settings, look and scripts lie here. Warnings are errors, and only
pages that changed are built anew.

    python jupyter_book/build.py [--fresh]
"""

import argparse
import os
import sys
from pathlib import Path

import vendor
import yaml

HERE = Path(__file__).resolve().parent
COURSE = HERE.parent / "course"
CONFIG = HERE / "_config.yml"


def build(*, source: Path, toc: Path, output: Path, fresh: bool) -> int:
    """Run Jupyter Book's own builder on pages and settings that lie apart; 0 when all is well."""
    from jupyter_book.sphinx import build_sphinx

    overrides = {
        "external_toc_path": str(toc),
        "html_static_path": [str(HERE / "_static")],
        "html_theme_options": repository_buttons(),
        "latex_individualpages": False,
        "nitpicky": True,
    }
    status = build_sphinx(
        source,
        output / "html",
        noconfig=True,
        path_config=CONFIG,
        confoverrides=overrides,
        warningiserror=True,
        keep_going=True,
        freshenv=fresh,
        quiet=True,
    )
    return status if isinstance(status, int) else 1


def repository_buttons() -> dict:
    """The buttons that lead to the repository, and none while its address is not set."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    url = settings["repository"]["url"]
    buttons = {"use_repository_button": bool(url), "use_issues_button": bool(url)}
    if not url:
        nowhere = dict.fromkeys(["binderhub_url", "colab_url", "jupyterhub_url"], "")
        buttons |= {"repository_url": "", "launch_buttons": nowhere}
    return buttons


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the course's site.")
    parser.add_argument("--fresh", action="store_true", help="build every page anew")
    parser.add_argument("--source", type=Path, default=COURSE, help="the folder of pages")
    parser.add_argument("--toc", type=Path, default=HERE / "_toc.yml", help="their order")
    parser.add_argument("--output", type=Path, default=HERE / "_build", help="html/ goes here")
    options = parser.parse_args()
    try:
        for name in ("requirejs", "html-manager"):
            vendor.fetch(name)
    except RuntimeError as error:
        print(f"book: {error}", file=sys.stderr)
        return 1
    source, toc, output = (p.resolve() for p in (options.source, options.toc, options.output))
    status = build(source=source, toc=toc, output=output, fresh=options.fresh)
    if status:
        print("book: not built; the messages above say why", file=sys.stderr)
        return status
    print(f"book: {os.path.relpath(output / 'html' / 'index.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
