"""Font packages of the CharNet sample: the fixed list, the split by family, the fetching.

The fonts come from the Debian archive through the ordinary package client, unpacked into a cache folder: nothing is
installed and no root is needed. Run `python fonts.py --cache DIR` on a Debian-like system after `apt-get update`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import ImageFont

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# One entry per line of type: packages that hold the same design under two names are not both listed, so that a split by
# package is a split by family. A package with several families (fonts-texgyre, say) keeps them all in one split.
PACKAGES: dict[str, tuple[str, ...]] = {
    "sans": (
        "adf-gillius", "adf-ikarius", "adf-libris", "adf-switzera", "adf-verana", "allerta", "apropal",
        "averia-sans-gwf", "b612", "beteckna", "cabin", "cantarell", "clear-sans", "comfortaa", "crosextra-carlito",
        "dejavu-core", "dosis", "eurofurence", "inter", "junction", "jura", "karla", "league-spartan",
        "liberation2", "manrope", "millimetre", "mplus", "national-park", "noto-core", "okolaks",
        "open-sans", "opendin", "opendyslexic", "osifont", "oxygen", "paratype", "play", "quicksand", "roadgeek",
        "roboto-unhinted", "routed-gothic", "sil-andika", "sora", "tiresias", "tuffy", "yanone-kaffeesatz",
    ),
    "serif": (
        "adf-accanthis", "adf-baskervald", "adf-berenis", "adf-irianis", "adf-mekanus", "adf-romande", "adf-tribun",
        "arapey", "averia-serif-gwf", "cardo", "century-catalogue", "cmu", "crosextra-caladea", "ebgaramond", "elstob",
        "essays1743", "fanwood", "freefont-otf", "gfs-artemisia", "gfs-bodoni-classic", "gfs-didot",
        "gfs-neohellenic", "goudybookletter", "junicode", "levien-museum", "lindenhill", "linuxlibertine",
        "oldstandard", "prociono", "quattrocento", "roboto-slab", "sil-charis", "sil-gentiumplus", "stix", "texgyre",
        "vollkorn", "yrsa-rasa",
    ),
    "mono": (
        "agave", "anonymous-pro", "compagnon", "courier-prime", "fantasque-sans", "firacode", "go", "hack", "hermit",
        "inconsolata", "jetbrains-mono", "league-mono", "monofur", "monoid", "mononoki", "ocr-a", "ocr-b", "3270",
        "gnutypewriter",
    ),
    "display": (
        "bebas-neue", "breip", "cherrybomb", "comic-neue", "dkg-handwriting", "dustin", "ecolier-court", "engadget",
        "femkeklaver", "havana", "humor-sans", "kristi", "leckerli-one", "lobster", "lobstertwo", "radisnoir",
        "reggae", "rufscript", "sjfonts", "smc-manjari", "staypuft", "tomsontalks", "ubuntu-title", "yusei-magic",
    ),
}  # fmt: skip

# Faces that are no plain upright or oblique Latin text: symbols, outlines, initials, swash alternates, other scripts.
UNFIT = (
    "symbol", "initial", "outline", "ornament", "swash", "ding", "math", "smallcaps", "caps", "-sc", "shadow", "emoji",
    "teletactile", "music", "bullets", "hairline", "extralight", "thin", "noto", "chorus", "mincho",
    "blackletter", "upright", "signwriting", "keyboard", "pcfont", "dripping",
)  # fmt: skip
LATIN_NOTO = ("NotoSans-", "NotoSerif-", "NotoSansDisplay-", "NotoSerifDisplay-", "NotoSansMono-")
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Face:
    """One usable font face: its file, the family and style it names itself, the package and the split it is in."""

    path: Path
    family: str
    style: str
    package: str
    split: Split


def split_of_packages() -> dict[str, Split]:
    """Give every package its split: in each kind, of every 6 packages one is for test and half a one for validation."""
    splits: dict[str, Split] = {}
    for names in PACKAGES.values():
        for index, name in enumerate(sorted(names)):
            kind: Split = "test" if index % 6 == 2 else "validation" if index % 12 == 5 else "train"
            splits[f"fonts-{name}"] = kind
    return splits


def fetch(cache: Path) -> list[str]:
    """Download and unpack every listed package into `cache`; packages already there are left alone.

    Returns the names of the packages that the archive does not have (a newer or older release may lack some).
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    for package in sorted(split_of_packages()):
        target = cache / package
        if target.is_dir():
            continue
        done = subprocess.run(["apt-get", "download", package], cwd=cache, capture_output=True, text=True, check=False)
        archives = sorted(cache.glob(f"{package}_*.deb"))
        if done.returncode != 0 or not archives:
            missing.append(package)
            continue
        subprocess.run(["dpkg", "-x", str(archives[0]), str(target)], check=True)
        for archive in archives:
            archive.unlink()
    return missing
