"""``python -m onnxlr`` is ``onnxlr``."""

from onnxlr.cli.main import main

main()
