"""The training side, an optional extra (``onnxlr[train]``): the only part of the project that imports torch.

``executor`` runs an ONNX graph in torch, differentiably; ``finetune`` trains a rewritten model against the original
and writes the weights back into the same graph; ``layers`` are low-rank layers for who trains in torch.
"""
