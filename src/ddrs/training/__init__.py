"""Training methods. A method is a module with `Settings` (pydantic) and `loss`, and one line here."""

METHODS = {
    "cohen": "ddrs.training.cohen",
    "smoothadv": "ddrs.training.smoothadv",
    "macer": "ddrs.training.macer",
    "yang": "ddrs.training.yang",
}
