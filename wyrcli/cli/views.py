"""What ``wyr explain`` makes to look at: reads in the terminal, a page, a folder for genome browsers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wyrcli.errors import WyrError

if TYPE_CHECKING:
    from wyrcli.checkpoint import Checkpoint, TrainedExplainer
    from wyrcli.explanation import Explanation
    from wyrcli.windows import RecordCounts

__all__ = ["Bundle", "Html", "HtmlLimit", "IgvJs", "Show", "ShowLimit", "ViewOptions", "Views"]

_VIEWS = "To look at"

Show = Annotated[
    bool,
    typer.Option(
        "--show", help="Print reads coloured by score; BED then needs a file (-o).", rich_help_panel=_VIEWS
    ),
]
ShowLimit = Annotated[
    int,
    typer.Option(
        "--show-limit", min=1, metavar="N", help="Most windows that --show prints.", rich_help_panel=_VIEWS
    ),
]
Html = Annotated[
    str | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Page of reads coloured by score, with filters: one file.",
        rich_help_panel=_VIEWS,
    ),
]
HtmlLimit = Annotated[
    int,
    typer.Option(
        "--html-limit",
        min=0,
        metavar="N",
        help="Most windows on the page; the first ones are taken.",
        rich_help_panel=_VIEWS,
    ),
]
Bundle = Annotated[
    Path | None,
    typer.Option(
        "--browser-bundle",
        metavar="DIR",
        help="New folder that IGV, igv.js and JBrowse 2 open: all, indexed.",
        rich_help_panel=_VIEWS,
    ),
]
IgvJs = Annotated[
    Path | None,
    typer.Option(
        "--igv-js",
        metavar="FILE",
        help="Copy of igv.min.js for the browser bundle's page.",
        rich_help_panel=_VIEWS,
    ),
]


@dataclass(frozen=True)
class ViewOptions:
    """What was asked for."""

    show: bool
    show_limit: int
    html: str | None
    html_limit: int
    bundle: Path | None
    igv_js: Path | None

    def check(self, outputs: Sequence[str | None]) -> None:
        """A usage error or a WyrError for what cannot be made, before models are loaded."""
        if self.show and "-" in (*outputs, self.html):
            raise typer.BadParameter(
                "prints on standard output; expected files for all other outputs", param_hint="--show"
            )
        if self.show:
            from wyrcli.outputs import check_standard_output

            check_standard_output()
        if self.igv_js is not None and self.bundle is None:
            raise typer.BadParameter("needs --browser-bundle", param_hint="--igv-js")
        if self.bundle is not None:
            from wyrcli.bundles import check_bundle

            check_bundle(self.bundle, self.igv_js)


class Views:
    """All views of a run; the page and the folder appear when ``stack`` ends without an error."""

    def __init__(
        self,
        options: ViewOptions,
        stack: ExitStack,
        checkpoint: Checkpoint,
        trained: TrainedExplainer,
        *,
        rank: str | None,
        threshold: float,
        min_length: int,
        n_targets: int,
    ) -> None:
        from wyrcli.bundles import open_bundle
        from wyrcli.cli.show import TerminalView
        from wyrcli.outputs import open_output
        from wyrcli.reads_page import ReadsPage

        ranks, alphabet = checkpoint.taxonomy.ranks, checkpoint.alphabet
        self._about = (checkpoint, trained)
        self._options = {"explained": rank or "all ranks together", "threshold": f"{threshold:g}"}
        if min_length > 1:
            self._options["shortest chunk"] = f"{min_length:,}"
        self._terminal = self._page = self._bundle = None
        if options.show:
            self._terminal = TerminalView(
                ranks,
                limit=options.show_limit,
                threshold=threshold,
                min_length=min_length,
                rank=None if rank is None else ranks.index(rank),
                alphabet=alphabet,
            )
        if options.html is not None:
            self._html = stack.enter_context(open_output(options.html))
            self._page = ReadsPage(
                ranks,
                limit=options.html_limit,
                rank=rank,
                threshold=threshold,
                min_length=min_length,
                alphabet=alphabet,
            )
        if options.bundle is not None:
            if alphabet != "dna":
                raise WyrError("a browser bundle is for DNA; this model reads something else")
            if n_targets > 1:
                raise WyrError(
                    f"a browser bundle has room for one score per base, and {n_targets} targets were asked "
                    "for; make one for each"
                )
            self._bundle = stack.enter_context(
                open_bundle(
                    options.bundle,
                    ranks,
                    rank=rank,
                    threshold=threshold,
                    min_length=min_length,
                    model=checkpoint.name,
                    notice=checkpoint.notice,
                    igv_js=options.igv_js,
                )
            )

    @property
    def is_drawing(self) -> bool:
        """Whether reads are still being printed to a terminal, where a progress bar would be in their way."""
        return self._terminal is not None and not self._terminal.is_full and sys.stdout.isatty()

    def write(self, explanation: Explanation) -> None:
        """Give a window to all views."""
        for view in (self._terminal, self._bundle):
            if view is not None:
                view.write(explanation)
        if self._page is not None:
            self._page.add(explanation)

    def finish(self, inputs: Sequence[str], counts: RecordCounts) -> None:
        """Write what comes at the end."""
        from wyrcli import __version__

        if self._terminal is not None:
            self._terminal.close()
        if self._page is not None:
            checkpoint, trained = self._about
            about = {
                "inputs": ", ".join(inputs),
                "model": str(checkpoint.path),
                "Explainer": f"{trained.name}, removal operator {trained.operator}",
                **self._options,
                "longest window": f"{checkpoint.window_bp:,}",
                "wyr": __version__,
            }
            page = self._page.text(
                model=checkpoint.name or checkpoint.path.name,
                notice=checkpoint.notice,
                about=list(about.items()),
                records=counts.records,
                skipped=counts.skipped,
            )
            self._html.write(page)
