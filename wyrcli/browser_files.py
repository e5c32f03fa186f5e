"""What tells browsers and people of a bundle: a page, a session, a configuration, a read-me, a web server."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from xml.sax.saxutils import quoteattr

from wyrcli.pages import STYLE, content_policy
from wyrcli.reads_page import data_block
from wyrcli.result_tables import clean

__all__ = ["Contents", "igv_config", "igv_session", "index_page", "jbrowse_config", "write_descriptions"]


@dataclass(frozen=True)
class Contents:
    """What a bundle holds, for the files that tell browsers and people of it.

    ``windows``: how many there are; ``listed``: safe name, start, stop, own name and call of the first ones;
    ``scores``, ``index``: name of the file of scores, and the ending of tabix indexes; ``is_signed``: scores
    are those of a contrast.
    """

    windows: int
    listed: Sequence[tuple[str, int, int, str, str]]
    scores: str
    index: str
    is_signed: bool
    model: str
    notice: str
    has_igv: bool

    @property
    def low(self) -> int:
        """The lowest score that there can be."""
        return -1 if self.is_signed else 0

    @property
    def first(self) -> str:
        """The first window as browsers write a place, from 1 and with its end; empty if there is none."""
        if not self.listed:
            return ""
        name, start, stop, *_ = self.listed[0]
        return f"{name}:{start + 1}-{stop}"


def write_descriptions(folder: Path, contents: Contents) -> None:
    """Write the page, the session, the configuration, a web server and how to use them."""
    for name, text in {
        "index.html": index_page(contents),
        "session.xml": igv_session(contents),
        "config.json": json.dumps(jbrowse_config(contents), indent=1) + "\n",
        "README.md": _readme(contents),
        "serve.py": _asset("serve.py.txt"),
    }.items():
        (folder / name).write_text(text, "utf-8")
    (folder / "serve.py").chmod(0o755)


def _readme(contents: Contents) -> str:
    is_bigwig = contents.scores.endswith(".bw")
    text = _asset("bundle_readme.md")
    for term, value in {
        "notice": clean(contents.notice),
        "index": contents.index,
        "scores": contents.scores,
        "scores_index": "" if is_bigwig else f" (`.{contents.index}`)",
        "scores_about": "the score of every base, bigWig"
        if is_bigwig
        else "the scores, bedGraph in BGZF with a tabix index",
        "igv_js": "igv.js lies beside the page as `igv.min.js`."
        if contents.has_igv
        else "The page needs igv.js, which is not here: put `igv.min.js` beside it, from the npm package igv "
        "(`npm pack igv && tar xzf igv-*.tgz && cp package/dist/igv.min.js .`), or make this folder with "
        "`--igv-js igv.min.js`.",
    }.items():
        text = text.replace("{" + term + "}", value)
    return text


def igv_config(contents: Contents) -> dict[str, object]:
    """For ``igv.createBrowser``.  Nothing in it makes igv.js ask another server than the page's own."""
    scores, index = contents.scores, contents.index
    wiggle: dict[str, object] = {
        "name": "score",
        "type": "wig",
        "format": "bigwig" if scores.endswith(".bw") else "bedgraph",
        "url": scores,
        "graphType": "dynseq",
        "windowFunction": "max",
        "min": contents.low,
        "max": 1,
        "height": 110,
        "color": "rgb(32,90,150)",
        "altColor": "rgb(161,79,23)",
    }
    if not scores.endswith(".bw"):
        wiggle["indexURL"] = f"{scores}.{index}"
    chunks = {
        "name": "important",
        "type": "annotation",
        "format": "bed",
        "url": "important.bed.gz",
        "indexURL": f"important.bed.gz.{index}",
        "displayMode": "EXPANDED",
        "height": 60,
    }
    return {
        "reference": {
            "id": "wyr",
            "name": "wyr",
            "fastaURL": "sequences.fa.gz",
            "indexURL": "sequences.fa.gz.fai",
            "compressedIndexURL": "sequences.fa.gz.gzi",
            "wholeGenomeView": False,
        },
        "locus": contents.first,
        "loadDefaultGenomes": False,
        "showChromosomeWidget": True,
        "tracks": [wiggle, chunks],
    }


def igv_session(contents: Contents) -> str:
    """IGV desktop's XML; paths are relative to it."""
    scores = contents.scores
    lines = {
        scores: f'track name="score" viewLimits={contents.low}:1 color=32,90,150 altColor=161,79,23 '
        "windowingFunction=maximum maxHeightPixels=110:110:20",
        "important.bed.gz": 'track name="important" itemRgb="On" visibility=expand',
    }
    resources = "\n".join(
        f"    <Resource path={quoteattr(path)} trackLine={quoteattr(line)}/>" for path, line in lines.items()
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Session genome="sequences.fa.gz" locus={quoteattr(contents.first)} version="8">
  <Resources>
{resources}
  </Resources>
</Session>
"""


def jbrowse_config(contents: Contents) -> dict[str, object]:
    """JBrowse 2's configuration; addresses are relative to it."""
    scores, index = contents.scores, contents.index

    def at(name: str) -> dict[str, str]:
        return {"uri": name, "locationType": "UriLocation"}

    def indexed(name: str) -> dict[str, object]:
        return {"location": at(f"{name}.{index}"), "indexType": index.upper()}

    if scores.endswith(".bw"):
        adapter: dict[str, object] = {"type": "BigWigAdapter", "bigWigLocation": at(scores)}
    else:
        adapter = {"type": "BedGraphTabixAdapter", "bedGraphGzLocation": at(scores), "index": indexed(scores)}
    fasta = {
        "type": "BgzipFastaAdapter",
        "fastaLocation": at("sequences.fa.gz"),
        "faiLocation": at("sequences.fa.gz.fai"),
        "gziLocation": at("sequences.fa.gz.gzi"),
    }
    bed = {
        "type": "BedTabixAdapter",
        "bedGzLocation": at("important.bed.gz"),
        "index": indexed("important.bed.gz"),
    }
    wiggle = {"type": "LinearWiggleDisplay", "displayId": "scores-LinearWiggleDisplay"}
    tracks = [
        {
            "type": "QuantitativeTrack",
            "trackId": "scores",
            "name": "score",
            "assemblyNames": ["wyr"],
            "adapter": adapter,
            "displays": [{**wiggle, "minScore": contents.low, "maxScore": 1}],
        },
        {
            "type": "FeatureTrack",
            "trackId": "important",
            "name": "important",
            "assemblyNames": ["wyr"],
            "adapter": bed,
        },
    ]
    sequence = {"type": "ReferenceSequenceTrack", "trackId": "wyr-sequences", "adapter": fasta}
    return {
        "assemblies": [{"name": "wyr", "sequence": sequence}],
        "tracks": tracks,
        "defaultSession": {"name": "wyr explain", "views": _jbrowse_views(contents)},
    }


def _jbrowse_views(contents: Contents) -> list[dict[str, object]]:
    """The first window with all tracks, in words that JBrowse has had since its version 1."""
    if not contents.listed:
        return []
    name, start, stop, *_ = contents.listed[0]
    shown = {
        "wyr-sequences": ("ReferenceSequenceTrack", "LinearReferenceSequenceDisplay"),
        "scores": ("QuantitativeTrack", "LinearWiggleDisplay"),
        "important": ("FeatureTrack", "LinearBasicDisplay"),
    }
    return [
        {
            "id": "wyr-view",
            "type": "LinearGenomeView",
            "offsetPx": 0,
            "bpPerPx": max((stop - start) / 1000, 0.05),
            "displayedRegions": [{"refName": name, "start": start, "end": stop, "assemblyName": "wyr"}],
            "tracks": [
                {
                    "type": kind,
                    "configuration": track,
                    "displays": [{"type": display, "configuration": f"{track}-{display}"}],
                }
                for track, (kind, display) in shown.items()
            ],
        }
    ]


def _asset(name: str) -> str:
    return (files("wyrcli") / "assets" / name).read_text("utf-8")


def index_page(contents: Contents) -> str:
    style, script = STYLE + _asset("bundle.css"), _asset("bundle.js")
    policy = content_policy(script, style)
    # igv.js lies beside the page, adds styles of its own, and loads from the page's own server alone.
    policy = re.sub(r"style-src [^;]*", "style-src 'unsafe-inline'", policy)
    policy = policy.replace("script-src", "script-src 'self'").replace("img-src data:", "img-src data: blob:")
    policy += "; connect-src 'self' data: blob:; font-src data:"
    # No meta element "color-scheme": igv.js is made for light pages, and would take dark colours from it.
    content = {
        "title": clean(f"wyr explain: {contents.model}" if contents.model else "wyr explain"),
        "notice": clean(contents.notice),
        "total": contents.windows,
        "windows": [list(row) for row in contents.listed],
        "igv": igv_config(contents),
    }
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>wyr explain</title>
<style>{style}</style>
</head>
<body>
{_asset("bundle.html")}<script type="application/json" id="data">{data_block(content)}</script>
<script src="igv.min.js"></script>
<script>{script}</script>
</body>
</html>
"""
