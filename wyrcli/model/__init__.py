"""The core: tokens, backbone, Explanandum, removal operators, Explainers and the loss.

Nothing in this package knows a file format of sequences or the name of a taxon; a reader who wants the
method reads tokens, explanandum, masking, explainer and loss, in this order.
"""
