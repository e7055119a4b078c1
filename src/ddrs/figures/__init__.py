"""Pictures from logs.

The logs of a figure -> `certified_accuracy` (accuracy against radius), `distribution` (of p_lower), `examples` (images at two sigmas)
No logs, a run in two dimensions -> `illustrations`: a file per idea, on what `_plane` shares
    -> `drawing`: Matplotlib without a display, in bytes that repeat, as PDF and PNG; the caption is Markdown beside them.

Colours and dashes of a row are those of its kind in `rows`.
"""
