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

# Debian packages without their "fonts-" prefix. From a list ordered by kind (sans, serif, mono, display) every sixth
# package went to test and about every twelfth to validation; relatives of a test design (DejaVu: Verana, Hack; Noto
# Sans: Open Sans; ...) were then left out altogether. A package with several families keeps them all in one split.
PACKAGES: dict[Split, tuple[str, ...]] = {
    "train": (
        "3270", "adf-accanthis", "adf-baskervald", "adf-gillius", "adf-ikarius", "adf-irianis", "adf-mekanus",
        "adf-switzera", "adf-tribun", "agave", "arapey", "b612", "bebas-neue", "breip", "cantarell", "cardo",
        "century-catalogue", "clear-sans", "cmu", "comfortaa", "comic-neue", "compagnon", "courier-prime",
        "crosextra-caladea", "crosextra-carlito", "dkg-handwriting", "dosis", "ebgaramond", "engadget", "essays1743",
        "eurofurence", "fanwood", "firacode", "gfs-didot", "gfs-neohellenic", "gnutypewriter", "havana", "hermit",
        "humor-sans", "inconsolata", "jetbrains-mono", "junction", "junicode", "jura", "league-mono",
        "league-spartan", "leckerli-one", "liberation2", "lindenhill", "linuxlibertine", "lobstertwo", "manrope",
        "monoid", "mononoki", "national-park", "oldstandard", "opendin", "osifont", "oxygen", "play", "quicksand",
        "reggae", "roadgeek", "roboto-slab", "roboto-unhinted", "routed-gothic", "rufscript", "sil-charis",
        "smc-manjari", "sora", "staypuft", "stix", "texgyre", "tiresias", "ubuntu-title", "yanone-kaffeesatz",
        "yrsa-rasa", "yusei-magic",
    ),
    "validation": (
        "adf-romande", "allerta", "cabin", "fantasque-sans", "inter", "mplus", "ocr-a", "opendyslexic", "prociono",
        "sil-gentiumplus", "sjfonts", "tuffy",
    ),
    "test": (
        "adf-berenis", "adf-libris", "anonymous-pro", "averia-serif-gwf", "beteckna", "cherrybomb", "dejavu-core",
        "elstob", "go", "goudybookletter", "karla", "noto-core", "paratype", "quattrocento", "radisnoir",
        "sil-andika", "tomsontalks", "vollkorn",
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
    """Give every package its split."""
    return {f"fonts-{name}": split for split in SPLITS for name in PACKAGES[split]}


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


def faces(cache: Path) -> list[Face]:
    """List the usable faces under `cache`, in a fixed order (package, family, style, file name).

    A face is usable if it draws every letter and digit, each with some ink and none as the missing-glyph box, and if
    neither its file nor its style names it as one of `UNFIT`.
    """
    found: dict[tuple[str, str], Face] = {}
    for package, split in sorted(split_of_packages().items()):
        for path in sorted((cache / package).rglob("*")):
            if path.suffix.lower() not in (".ttf", ".otf") or path.is_symlink() or not _fit_name(path.name):
                continue
            face = _usable(path, package, split)
            if face is not None:
                found.setdefault((face.family, face.style), face)
    return sorted(found.values(), key=lambda face: (face.package, face.family, face.style))


def _fit_name(name: str) -> bool:
    if name.startswith(LATIN_NOTO):
        return not any(word in name.lower().replace("noto", "") for word in (*UNFIT, "condensed"))
    return not any(word in name.lower() for word in UNFIT)


def _usable(path: Path, package: str, split: Split) -> Face | None:
    """Read one font file; None if FreeType cannot, or if a character is missing from it."""
    try:
        font = ImageFont.truetype(str(path), 32)
        family, style = font.getname()
    except OSError:
        return None
    if family is None or any(word in f"{family} {style}".lower() for word in UNFIT if word != "noto"):
        return None
    missing = [_ink(font, character) for character in ("\uf8f0", "\u0378")]
    inks = {character: _ink(font, character) for character in CHARACTERS}
    if any(not ink.strip(b"\0") or ink in missing for ink in inks.values()):
        return None
    distinct = len({inks[character] for character in CHARACTERS if not character.islower()})
    return Face(path, family, style or "", package, split) if distinct == 36 else None


def _ink(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    # The mask iterates over its grey levels, which Pillow's stubs do not say.
    return bytes(font.getmask(character, mode="L"))  # pyright: ignore[reportArgumentType]


def main() -> None:
    """Fetch the packages and print how many families and faces each split holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("cache/fonts"), help="folder for the unpacked packages")
    cache: Path = parser.parse_args().cache
    for package in fetch(cache):
        print(f"not in the archive: {package}", file=sys.stderr)
    usable = faces(cache)
    for split in SPLITS:
        chosen = [face for face in usable if face.split == split]
        print(f"{split}: {len({face.family for face in chosen})} families, {len(chosen)} faces")


if __name__ == "__main__":
    main()
